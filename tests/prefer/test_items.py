"""Sources → what people are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from readers.tool_files import write_lines
from trimtab.data.vote_file import Item
from trimtab.errors import TrimtabError
from trimtab.prefer.ballot import Ballot
from trimtab.prefer.items import items_of


def answers(path: Path, texts: Sequence[str | None], scores: Sequence[float] | None = None) -> str:
    rows = [{"id": f"p{i}", "prompt": f"ask {i}", "completion": text} for i, text in enumerate(texts)]
    if scores is not None:
        rows = [row | {"score": score} for row, score in zip(rows, scores, strict=True)]
    return str(write_lines(path, rows))


def write_study(folder: Path, seeds: Sequence[int], scores: Sequence[float]) -> str:
    """A study of sft and dpo against an opponent; the opponent scores 0 on every prompt."""
    for seed in seeds:
        for method in ("sft", "dpo") + ("opponent",) * (seed == seeds[0]):
            place = folder / f"seed-{seed}" / "evaluation" / method
            place.mkdir(parents=True)
            rows = [
                {"id": f"p{i}", "prompt": f"ask {i}", "completion": f"{method} {seed} {i}", "tokens": 3,
                 "terminated": True}
                for i in range(len(scores))
            ]  # fmt: skip
            write_lines(place / "generations.jsonl", rows)
            judged = [0.0] * len(scores) if method == "opponent" else scores
            write_lines(place / "scores.jsonl", [{"id": f"p{i}", "score": s} for i, s in enumerate(judged)])
    return str(folder)


def names(items: Sequence[Item]) -> set[tuple[str, str, int | None]]:
    return {(item.first, item.second, item.seed) for item in items}


def test_two_files(tmp_path: Path) -> None:
    """What is the same but for white space at its ends, or lacks an answer, is no item."""
    a = answers(tmp_path / "a.jsonl", ["x", "same", "z", None])
    b = answers(tmp_path / "b.jsonl", ["y", " same\n", "z z", "w"])
    first, second = items_of([a, b])
    assert (first.prompt_id, first.prompt, first.first, first.second) == ("p0", "ask 0", "b", "a")
    assert (first.first_completion, first.second_completion, first.seed) == ("y", "x", None)
    assert json.loads(first.messages) == [{"role": "user", "content": "ask 0"}]
    assert (second.prompt_id, second.purpose) == ("p2", "random")
    assert [item.id for item in items_of([a, b])] == [first.id, second.id]


def test_nothing_to_ask(tmp_path: Path) -> None:
    a, b = (answers(tmp_path / f"{name}.jsonl", ["x", "y"]) for name in "ab")
    with pytest.raises(TrimtabError, match="nothing to ask people: 2 pairs have the same text on both sides"):
        items_of([a, b])


def test_pairs_of_a_study(tmp_path: Path) -> None:
    study = write_study(tmp_path / "run", [3, 4], [1.0, 2.0])
    every = items_of([study])
    assert names(every) == {(m, "opponent", seed) for m in ("sft", "dpo") for seed in (3, 4)}
    assert len(every) == len({item.id for item in every}) == 8
    assert names(items_of([study], methods=["dpo", "sft"])) == {("dpo", "sft", 3), ("dpo", "sft", 4)}
    assert names(items_of([study], methods=["dpo"])) == {("dpo", "opponent", 3), ("dpo", "opponent", 4)}
    assert len(names(items_of([study], pairs="all"))) == 6
    with pytest.raises(
        TrimtabError, match=r"--methods ppo: there is no such method. There are: opponent, sft, dpo"
    ):
        items_of([study], methods=["ppo"])


def test_one_training_seed_is_none(tmp_path: Path) -> None:
    assert names(items_of([write_study(tmp_path / "run", [0], [1.0])])) == {
        ("sft", "opponent", None),
        ("dpo", "opponent", None),
    }


def test_for_training_the_closest_first(tmp_path: Path) -> None:
    """In the order of margins, also where a ballot hands them out."""
    scores = [5.0, -1.0, 0.5, 3.0] + [9.0] * 60
    study = write_study(tmp_path / "run", [0], scores)
    items = items_of([study], methods=["dpo"], for_training=True)
    assert [item.prompt_id for item in items[:4]] == ["p2", "p1", "p3", "p0"]
    assert {item.purpose for item in items} == {"training"}
    assert [item.prompt_id for item in items[4:]] != [f"p{i}" for i in range(4, 64)]
    ballot = Ballot(tmp_path / "votes.sqlite", items)
    assert ballot.next_for("ann")[0].item in items[:40]
    assert {one.item.id for one in ballot.next_for("bob", 64)} == {item.id for item in items}
    ballot.close()


def test_a_judge_of_pairs_tells_what_is_close(tmp_path: Path) -> None:
    rows = [
        {
            "id": i,
            "prompt": f"ask {i}",
            "completion_model": f"m{i}",
            "completion_reference": f"r{i}",
            "preference": p,
        }
        for i, p in enumerate([0.9, 0.45, 0.2])
    ]
    items = items_of([str(write_lines(tmp_path / "judged.jsonl", rows))], for_training=True)
    assert [item.prompt_id for item in items] == ["1", "2", "0"]


def test_preference_files_are_labelled_anew(tmp_path: Path) -> None:
    """With the whole conversation; the sides are called what the file makes of them."""
    turns = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Go on"},
    ]  # fmt: skip
    rows = [
        {"prompt": turns, "chosen": [{"role": "assistant", "content": "good"}], "rejected": "bad"},
        {"prompt": "plain", "system": "Be kind.", "chosen": "yes", "rejected": "no"},
    ]
    first, second = items_of([str(write_lines(tmp_path / "pairs.jsonl", rows))])
    assert (first.first, first.second) == ("chosen answers", "rejected answers")
    assert (first.prompt, json.loads(first.messages)) == ("Go on", turns)
    assert (first.first_completion, first.second_completion) == ("good", "bad")
    assert [turn["role"] for turn in json.loads(second.messages)] == ["system", "user"]
