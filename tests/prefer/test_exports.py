"""Votes in the files of others and back: nothing is lost, and what the real tools write is read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefer.cast import item, vote_all
from readers.tool_files import write_lines
from trimtab.data.files import rows_of
from trimtab.data.hashing import hash_source
from trimtab.data.layouts import layout_of
from trimtab.data.records import ReadingSettings, Record, read_records, records_of
from trimtab.data.vote_file import Item, read_votes
from trimtab.errors import TrimtabError
from trimtab.prefer.ballot import Ballot, NewVote, item_id, second_left
from trimtab.prefer.exports import FORMATS, export_votes
from trimtab.readers.labels import LabelRow, read_labels

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
TURNS = st.sampled_from([[], [("system", "Be brief.")], [("user", "Hello"), ("assistant", "Hi")]])
SAID = ("left", "right", "both good", "both bad", "skip")


@st.composite
def voted(draw: st.DrawFn) -> list[tuple[Item, str, str, bool]]:
    """Items, and who said what of each; at least one of them better."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        first, second = draw(st.lists(TEXT, min_size=2, max_size=2, unique=True))
        prompt, seed = f"{draw(TEXT)} {number}", draw(st.sampled_from([None, 3]))
        turns = [*draw(TURNS), ("user", prompt)]
        messages = json.dumps([{"role": role, "content": text} for role, text in turns])
        purpose = draw(st.sampled_from(["random", "training"]))
        key = item_id(prompt, [("dpo", seed, first), ("sft", seed, second)], purpose, str(number))
        names = (prompt, messages, "dpo", "sft", seed, first, second)
        one = Item(key, purpose, f"p{number}", *names)  # type: ignore[arg-type]
        for person in ("ann", "bob"):
            for repeated in (False, True)[: draw(st.integers(1, 2))]:
                found.append((one, person, draw(st.sampled_from(SAID)), repeated))
    return found


def write(path: Path, votes: Sequence[tuple[Item, str, str, bool]]) -> Path:
    ballot = Ballot(path, [one for one, *_ in votes])
    for number, (one, person, verdict, repeated) in enumerate(votes):
        ballot.record(NewVote(f"v{number}", one.id, person, repeated, verdict))  # type: ignore[arg-type]
    ballot.close()
    return path


def records(path: Path, **named: Any) -> list[Record]:
    name, rows = rows_of(str(path), **named)
    return list(records_of(name, rows, ReadingSettings(), []))


def content(found: Sequence[Record]) -> Counter[Any]:
    return Counter((one.prompt, one.completions, one.labels) for one in found)


@settings(max_examples=8, deadline=None)
@given(votes=voted())
def test_nothing_is_lost(votes: list[tuple[Item, str, str, bool]]) -> None:
    """Pairs and KTO's labels are what the file of votes itself gives; a file of judgements has every one."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = write(folder / "votes.sqlite", votes)
        for kind, config in (("trl", None), ("openai", None), ("kto", "kto")):
            expected, out = records(path, config=config), folder / f"{kind}.jsonl"
            if not expected:
                continue
            assert export_votes(path, kind, out).rows == len(expected)
            assert content(records(out)) == content(expected), kind
        judged = read_labels(path, {})
        if not judged.rows and not judged.not_random:
            return
        kept = [vote for vote in read_votes(path) if vote.share is not None]
        for kind, ending in (("lmarena", "jsonl"), ("label-studio", "json"), ("argilla", "json")):
            out = folder / f"{kind}.{ending}"
            if not kept:
                continue
            assert export_votes(path, kind, out).rows == len(kept)
            again = read_labels(out, {})
            assert Counter(map(plainly, again.rows)) == Counter(map(plainly, judged.rows)), kind
            assert not again.unreadable
            pairs = Counter(
                (one.prompt, one.completions) for one in records(out)
            )  # of each vote that names a better answer
            assert pairs.total() == sum(vote.verdict in ("left", "right") for vote in kept), kind


def plainly(row: LabelRow) -> tuple[Any, ...]:
    """The same whichever of the two answers comes first."""
    turned = (row.first or "") > (row.second or "")
    share = 1 - row.share if turned else row.share
    texts = row.texts[::-1] if turned else row.texts
    return row.key, row.prompt, *sorted((str(row.first), str(row.second))), share, row.person, row.seed, texts


def test_pairs_say_where_they_are_from(tmp_path: Path) -> None:
    """Two of three persons prefer the second answer; the third item is even, and counted."""
    said = {
        "p0": ["second", "second", "first"],
        "p1": ["both good", "first", "skip"],
        "p2": ["first", "second", "skip"],
    }
    persons = ["ann", "bob", "cat"]

    path = vote_all(
        tmp_path / "votes.sqlite", [item(i) for i in range(3)], persons,
        lambda person, one: said[one.prompt_id][persons.index(person)], 3,
    )  # fmt: skip
    exported = export_votes(path, "trl", tmp_path / "pairs.jsonl")
    assert (exported.rows, exported.even) == (2, 1)
    rows = {row["prompt_id"]: row for row in map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())}
    row = rows["p0"]
    assert (row["chosen"], row["chosen_method"], row["rejected_method"]) == (
        [{"role": "assistant", "content": "sft 0"}], "sft", "dpo",
    )  # fmt: skip
    assert (row["share"], row["persons"]) == (pytest.approx(2 / 3), 3)
    assert {(vote["person"], vote["verdict"]) for vote in row["votes"]} == {
        ("ann", "sft"), ("bob", "sft"), ("cat", "dpo"),
    }  # fmt: skip
    assert rows["p1"]["share"] == 0.75
    export_votes(path, "kto", tmp_path / "kto.jsonl")
    labels = {
        (row["prompt_id"], row["method"]): row["label"]
        for row in map(json.loads, (tmp_path / "kto.jsonl").read_text().splitlines())
    }
    # Of p1 the second answer is good for one and not for the other; p2 is even on both.
    assert labels == {("p0", "dpo"): False, ("p0", "sft"): True, ("p1", "dpo"): True}
    export_votes(path, "lmarena", tmp_path / "some.jsonl", without=["cat"])
    assert read_labels(tmp_path / "some.jsonl", {}).rows
    assert {row.person for row in read_labels(tmp_path / "some.jsonl", {}).rows} == {"ann", "bob"}


def test_a_person_who_judged_twice_counts_once(tmp_path: Path) -> None:
    """ann preferred the second answer twice and bob the first once: of two persons, so they are even. With cat, who
    preferred the first as well, it is two of three."""
    on = item(0)

    def says(person: str, repeated: bool, better: str) -> tuple[Item, str, str, bool]:
        swapped = second_left(person, on.id) != repeated
        return on, person, "left" if (better == "first") != swapped else "right", repeated

    votes = [says("ann", False, "second"), says("ann", True, "second"), says("bob", False, "first")]
    with pytest.raises(TrimtabError, match="no votes that could be written"):
        export_votes(write(tmp_path / "even.sqlite", votes), "trl", tmp_path / "even.jsonl")
    path = write(tmp_path / "votes.sqlite", [*votes, says("cat", False, "first")])
    export_votes(path, "trl", tmp_path / "pairs.jsonl")
    (row,) = map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    assert (row["chosen_method"], row["share"]) == ("dpo", pytest.approx(2 / 3))


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "votes.sqlite", [])
    for words, why in (
        (("xml", "out.jsonl"), "--export xml: known are trl, kto"),
        (("argilla", "out.jsonl"), "argilla is written as .json"),
        (("trl", "out.jsonl"), "no votes that could be written as trl"),
    ):
        with pytest.raises(TrimtabError, match=why):
            export_votes(path, words[0], tmp_path / words[1])
    with pytest.raises(TrimtabError, match="--without eve: did not vote"):
        export_votes(path, "trl", tmp_path / "out.jsonl", without=["eve"])
    with pytest.raises(TrimtabError, match="votes are read as pairs or kto"):
        read_records(str(path), config="x")
    with pytest.raises(TrimtabError, match=r"gone.sqlite: no such file"):
        read_records(str(tmp_path / "gone.sqlite"))
    assert set(FORMATS) == {"trl", "kto", "openai", "lmarena", "label-studio", "argilla"}


# ---- files of the real tools: tests/prefer/tools, laid out as label-studio-sdk 2.1.2 and argilla 2.8.0 write them

TOOLS = Path(__file__).parent / "tools"


@pytest.mark.parametrize("name", ["label_studio.json", "label_studio_min.json", "label_studio_min.csv"])
def test_label_studios_files(name: str) -> None:
    """Three annotations of one task, one and a skipped one of another, a tie."""
    pairs = content(records(TOOLS / name))
    whole = name == "label_studio.json"
    blue = ("Sky?", ("Blue.", "Green."), None)
    assert pairs[blue] == (1 if whole else 2)
    assert pairs["Sea?", ("Wet.", "Dry."), None] == 1
    file = read_labels(TOOLS / name, {})
    assert Counter((row.prompt, row.first, row.second, row.share) for row in file.rows) == {
        ("Sky?", "dpo", "sft", 1.0): 2, ("Sky?", "dpo", "sft", 0.0): 1,
    }  # fmt: skip
    assert {row.person for row in file.rows} == {f"user{i}@example.org" for i in (1, 2, 3)}


def test_argillas_records() -> None:
    """A tie of two, two of one mind, a ranking, and one without responses."""
    found = records(TOOLS / "argilla.json")
    assert [(one.prompt_text, one.completions) for one in found][:2] == [
        ("Sea?", ("Wet.", "Dry.")), ("Sun?", ("Cold.", "Hot.")),
    ]  # fmt: skip
    file = read_labels(TOOLS / "argilla.json", {})
    assert [(row.key, row.first, row.share) for row in file.rows if row.key == "p1"] == [
        ("p1", "dpo", 1.0), ("p1", "dpo", 0.0),
    ]  # fmt: skip


def test_lmarenas_battles(tmp_path: Path) -> None:
    """Whole conversations; ties name nobody, and conversations that part have no prompt in common."""

    def turns(*texts: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]

    row = {"question_id": "q", "model_a": "m", "model_b": "n", "winner": "model_b", "judge": "arena_user_1"}
    same = {"conversation_a": turns("Hi", "A"), "conversation_b": turns("Hi", "B")}
    apart = {"conversation_a": turns("Hi", "A", "So?", "C"), "conversation_b": turns("Hi", "B", "So?", "D")}
    path = write_lines(
        tmp_path / "arena.jsonl", [row | same, row | same | {"winner": "tie (bothbad)"}, row | apart]
    )
    [found] = records(path)
    assert (found.prompt_text, found.completions) == ("Hi", ("B", "A"))
    assert layout_of(row | same).name == "battles (LMArena)"
    assert [(one.share, one.person, one.prompt) for one in read_labels(path, {}).rows] == [
        (0.0, "arena_user_1", "Hi"), (0.5, "arena_user_1", "Hi"), (0.0, "arena_user_1", "So?"),
    ]  # fmt: skip


def test_a_file_of_votes_is_what_its_votes_are(tmp_path: Path) -> None:
    """A stage goes on with the same votes, wherever SQLite has them; with one vote more it is another's."""
    path = tmp_path / "votes.sqlite"
    ballot = Ballot(path, [item(0), item(1)], per_item=1)
    ballot.record(NewVote("v0", item(0).id, "ann", False, "left"))
    before = hash_source(str(path))
    ballot.add(item(7, purpose="own"))
    assert hash_source(str(path)) == before
    ballot.record(NewVote("v1", item(1).id, "ann", False, "left"))
    after = hash_source(str(path))
    assert after != before
    ballot.close()  # the last one to leave writes everything into the main file
    assert hash_source(str(path)) == after
    [one, other] = records(path)
    assert {one.completions, other.completions} <= {(f"{a} {i}", f"{b} {i}") for i in (0, 1) for a, b in SIDES}


SIDES = (("dpo", "sft"), ("sft", "dpo"))
