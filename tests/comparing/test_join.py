from __future__ import annotations

import pytest

from trimtab.comparing.join import join
from trimtab.errors import TrimtabError
from trimtab.readers.rows import MethodRows, Row, Side


def method(name: str, *rows: tuple[str | None, str | None]) -> MethodRows:
    return MethodRows(name, [Row(key, prompt, Side(score=1.0)) for key, prompt in rows], name)


def test_by_id_in_the_order_of_the_first() -> None:
    joined = join([method("a", ("2", None), ("1", None)), method("b", ("1", "ask"), ("2", "say"))])
    assert (joined.keys, joined.by, joined.told) == (["2", "1"], "id", [])
    assert joined.prompts == {"1": "ask", "2": "say"}


def test_by_text_where_ids_are_of_other_prompts() -> None:
    """Row numbers of two files: joined by them, every prompt would be compared with another."""
    joined = join([method("a", ("0", "x"), ("1", "y")), method("b", ("0", "y"), ("1", " x\n"))])
    assert (joined.keys, joined.by) == (["x", "y"], "text")
    assert joined.told == ["2 ids stand for different prompts, the first '0' of a and b. Joined by the texts."]


def test_by_text_where_ids_are_each_files_own() -> None:
    joined = join([method("a", ("u1", "x"), ("u2", "y")), method("b", ("v1", "x"), ("v2", "y"))])
    assert (joined.keys, joined.by) == (["x", "y"], "text")


def test_ids_of_other_prompts_are_refused_where_no_texts_help() -> None:
    with pytest.raises(TrimtabError, match=r"1 ids stand for different prompts, the first '0' of a and b"):
        join([method("a", ("0", "x")), method("b", ("0", "y")), method("c", ("0", None))])


def test_what_could_not_be_joined_is_counted() -> None:
    joined = join([method("a", ("1", None), ("2", None)), method("b", ("2", None), ("3", None), ("4", None))])
    assert joined.keys == ["2"]
    assert joined.told == [
        "a: 1 of 2 prompts are not in every source (joined by id) and are left out",
        "b: 2 of 3 prompts are not in every source (joined by id) and are left out",
    ]


def test_prompts_that_come_more_than_once() -> None:
    joined = join([method("a", ("1", None), ("1", None)), method("b", ("1", None))])
    assert [len(group["1"]) for group in joined.rows] == [2, 1]
    assert joined.told == [
        "a: 1 prompts come more than once, up to 2 times: they count once, with the mean over their rows"
    ]


def test_nothing_shared_and_nothing_to_join_by() -> None:
    with pytest.raises(TrimtabError, match=r"share no prompt, joined by id: a has '1'; b has '2'"):
        join([method("a", ("1", None)), method("b", ("2", None))])
    with pytest.raises(TrimtabError, match=r"nothing to join rows by: a \(1 rows, 1 with an id, 0 with a prompt\)"):
        join([method("a", ("1", None)), method("b", (None, "x"))])
    assert join([method("a", (None, None), (None, None))]).keys == ["0", "1"]
