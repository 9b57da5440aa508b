"""What was asked travels with the completions: instructions and whole conversations reach the judges of `compare`,
and rows are joined by all that was said where the sources know it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from servers.judge_server import Biases, judging
from trimtab.comparing.join import join
from trimtab.comparing.run import Asked, Compared, compare_sources
from trimtab.data.message import Message, conversation
from trimtab.data.records import Record, to_record
from trimtab.errors import TrimtabError
from trimtab.evaluation.asked import FILE, read_asked, write_asked
from trimtab.evaluation.outputs import Generation, write_rows
from trimtab.readers.rows import MethodRows, Row, Side

INSTRUCTIONS = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def folder(path: Path, records: Sequence[Record], texts: Sequence[str]) -> str:
    """As `trimtab generate` leaves it."""
    path.mkdir(parents=True)
    write_rows(
        path / "generations.jsonl",
        [
            Generation(id=str(i), prompt=record.prompt_text, completion=text, tokens=3, terminated=True)
            for i, (record, text) in enumerate(zip(records, texts, strict=True))
        ],
    )
    write_asked(path, records)
    return str(path)


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def compare(*sources: str, **asked: Any) -> Compared:
    return compare_sources(Asked(sources, n_resamples=200, **asked))


def records(count: int = 30) -> list[Record]:
    return [to_record({"prompt": f"Ask {i}", **INSTRUCTIONS}, f"rows:{i}") for i in range(count)]


def test_instructions_of_folders_reach_their_judge(tmp_path: Path) -> None:
    """Of 30 answers 10 and 20 hold no comma. The second source is rows of texts: what they were asked is known of
    the first, and joined by the prompts."""
    with_comma, without = "Yes, it is.", "It is."
    asked = records()
    a = folder(tmp_path / "a", asked, [without] * 10 + [with_comma] * 20)
    answers = [without] * 20 + [with_comma] * 10
    for b in (
        folder(tmp_path / "b", asked, answers),
        lines(tmp_path / "b.jsonl", [{"prompt": f"Ask {i}", "completion": t} for i, t in enumerate(answers)]),
    ):
        r = compare(a, b, judge="instructions").results
        assert r.methods["b"].value("judge_score") == pytest.approx(2 / 3)
        assert r.methods["b"].value("win_rate") == pytest.approx((10 + 20 / 2) / 30)
        assert r.methods["b"].value("prompt_level_strict_acc") == pytest.approx(2 / 3)
        assert r.opponent_result is not None
        assert r.opponent_result.value("prompt_level_strict_acc") == pytest.approx(1 / 3)
    # Without a judge the instructions themselves tell whether it helped.
    alone = compare(a, str(tmp_path / "b"))
    assert (alone.outcome, alone.outcomes[0].metric) == ("helped", "prompt_level_strict_acc")


def test_prompts_without_instructions_are_told_before_anything_is_scored(tmp_path: Path) -> None:
    a, b = (lines(tmp_path / f"{name}.jsonl", [{"prompt": "Ask", "completion": name}]) for name in "ab")
    with pytest.raises(TrimtabError, match=r"a.jsonl: no row has instructions"):
        compare(a, b, judge="instructions")


def test_a_folder_of_an_earlier_version_has_no_file(tmp_path: Path) -> None:
    a, b = (folder(tmp_path / name, records(3), [name] * 3) for name in "ab")
    for place in (a, b):
        (Path(place) / FILE).unlink()
    (tmp_path / "j.py").write_text("def score(completions, **_):\n    return [len(c) for c in completions]\n")
    assert compare(a, b, judge=f"{tmp_path / 'j.py'}:score").results.methods["b"].value("win_rate") == 0.5


def said(*turns: str) -> tuple[Message, ...]:
    roles = ("system", "user", "assistant", "user")
    return tuple(Message(role, text) for role, text in zip(roles[-len(turns) :], turns, strict=True))


TALKS = [said("Be brief.", "Hi", "Hello", "Go on"), said("Be long.", "Hi", "Hello", "Go on")]


def test_conversations_with_one_last_turn_are_two_prompts(tmp_path: Path) -> None:
    """In another order, and with other ids, so that only what was said joins them."""
    a = folder(tmp_path / "a", [Record(talk, ()) for talk in TALKS], ["one", "two"])
    rows = [
        {"prompt": [m.as_json() for m in talk], "completion": text} for talk, text in zip(TALKS, "12", strict=True)
    ]
    b = lines(tmp_path / "b.jsonl", rows[::-1])
    (tmp_path / "j.py").write_text(
        "def score(prompts, completions, **_):\n"
        "    both = zip(prompts, completions)\n"
        "    return [float((p[0]['content'], c[0]['content']) in {('Be brief.', '1')}) for p, c in both]\n"
    )
    compared = compare(a, b, judge=f"{tmp_path / 'j.py'}:score")
    assert compared.results.data["joined"].kept == 2
    assert compared.results.methods["b"].value("judge_score") == 0.5  # the judge saw the system prompt
    assert not [line for line in compared.results.warnings if "last turn" in line or "more than once" in line]


def test_where_one_has_texts_alone_the_last_turn_joins_and_it_is_said(tmp_path: Path) -> None:
    talks = [said("Be brief.", "Hi", "Hello", f"Go on {i}") for i in range(3)]
    a = folder(tmp_path / "a", [Record(talk, ()) for talk in talks], ["one"] * 3)
    b = lines(tmp_path / "b.jsonl", [{"prompt": f"Go on {i}", "completion": "two"} for i in range(3)])
    (tmp_path / "j.py").write_text(
        "def score(prompts, completions, **_):\n    return [float(len(prompt)) for prompt in prompts]\n"
    )
    compared = compare(a, b, judge=f"{tmp_path / 'j.py'}:score")
    assert "b: prompts are texts alone, so conversations are joined by their last turn" in compared.results.warnings
    # What b's answers were said to is known of a: both are judged in the whole conversation of four turns.
    assert compared.results.methods["b"].value("judge_score") == 4.0


def row(key: str, prompt: str, turns: tuple[Message, ...] = (), **columns: str) -> Row:
    return Row(key, prompt, Side(score=1.0), turns=turns, columns=columns)


def test_a_last_turn_of_several_conversations_stands_for_none() -> None:
    a = MethodRows("a", [row("1", "Go on", TALKS[0], of="a"), row("2", "Go on", TALKS[1], of="a")], "a")
    joined = join([a, MethodRows("b", [row("x", "Go on", of="b", more="b")], "b")])
    assert joined.keys == ["Go on"]
    assert joined.asked["Go on"].prompt == "Go on"
    assert joined.asked["Go on"].columns == {"of": "a", "more": "b"}
    whole = join([a, MethodRows("b", [row("x", "Go on", TALKS[1])], "b")])
    assert [group["system: Be long.\nuser: Hi\nassistant: Hello\nuser: Go on"][0].key for group in whole.rows] == [
        "2", "x",
    ]  # fmt: skip


def test_ids_of_conversations_that_differ_before_the_last_turn_are_no_join() -> None:
    sources = [MethodRows(name, [row("0", "Go on", TALKS[i])], name) for i, name in enumerate("ab")]
    with pytest.raises(TrimtabError, match=r"the sources share no prompt, joined by text"):
        join(sources)


def test_a_judge_of_pairs_sees_the_conversation(tmp_path: Path) -> None:
    places = [
        folder(tmp_path / name, [Record(TALKS[0], ())], [f"{name} quality {i}"]) for i, name in enumerate("ab")
    ]
    questions: list[str] = []

    class Listening(Biases):
        def verdict(self, question: str, attempt: int) -> str:
            questions.append(question)
            return super().verdict(question, attempt)

    with judging(Listening()) as server:
        compared = compare(*places, judge=f"pairwise:j@{server.base_url}", probes=0)
    assert compared.results.methods["b"].value("win_rate") == 1.0
    assert questions
    assert all("Be brief." in question and "Hello" in question for question in questions)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])
    talk = conversation(said("a", "b\u2028", "c", "d"), tools)
    rows = [
        Record("text", (), columns={"kwargs": [{"n": None}], "level": 2, "chosen": "x"}),
        Record(talk, (), columns={"day": date(2026, 1, 2)}),
    ]
    write_asked(tmp_path, rows)
    before = (tmp_path / FILE).stat().st_mtime_ns
    write_asked(tmp_path, rows)
    assert (tmp_path / FILE).stat().st_mtime_ns == before
    found = read_asked(tmp_path)
    assert (found["0"].prompt, dict(found["0"].columns)) == ("text", dict(rows[0].columns))
    assert found["1"].prompt == talk
    assert found["1"].columns == {"day": "2026-01-02"}
    (tmp_path / FILE).write_text('{"id": "0", "prompt": [{"role": "user"}], "columns": {}}\n')
    with pytest.raises(TrimtabError, match=rf"{FILE}:1: is damaged: .* Remove it"):
        read_asked(tmp_path)


def test_a_file_of_other_prompts_is_refused(tmp_path: Path) -> None:
    a, b = (folder(tmp_path / name, records(2), [name] * 2) for name in "ab")
    write_asked(Path(b), records(3)[1:])
    with pytest.raises(TrimtabError, match=r"asked.jsonl: 0 is another prompt than in generations.jsonl"):
        compare(a, b)
