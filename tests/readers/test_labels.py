"""People's labels: every way to write one, what is left out, and whose answers they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from readers.tool_files import write_lines
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import GivenAnswer, MethodOutputs
from trimtab.evaluation.summary import StudyOutputs
from trimtab.evaluation.votes import Vote
from trimtab.readers.labels import LabelRow, read_labels
from trimtab.readers.votes import labels_of


def rows_of(tmp_path: Path, *rows: dict[str, Any], pair: tuple[str, str] | None = None) -> Sequence[LabelRow]:
    return read_labels(write_lines(tmp_path / "labels.jsonl", rows), {}, pair).rows


def share(tmp_path: Path, **row: Any) -> tuple[Any, ...]:
    [found] = rows_of(tmp_path, {"id": 1} | row)
    return found.first, found.second, found.share


def test_who_won_in_every_way(tmp_path: Path) -> None:
    sides = {"method_left": "dpo", "method_right": "base"}
    for winner, won in (("left", 1), ("RIGHT", 0), ("dpo", 1), ("base", 0), ("tie", 0.5), ("both bad", 0.5)):
        assert share(tmp_path, winner=winner, **sides) == ("dpo", "base", won)
    assert share(tmp_path, method="dpo", opponent="base", preferred="base") == ("dpo", "base", 0)
    assert share(tmp_path, method="dpo", winner="opponent") == ("dpo", None, 0)
    assert share(tmp_path, model_a="dpo", model_b="base", winner="model_b") == ("dpo", "base", 0)
    assert share(tmp_path, method="dpo", preference=0.75) == ("dpo", None, 0.75)
    assert share(tmp_path, method_a="dpo", method_b="sft", score_a="7/10", score_b="9/10") == ("dpo", "sft", 0)


def test_scores_of_single_answers_become_pairs_of_one_person(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "method": m, "score": s, "person": p}
        for p, scores in (("ann", (3, 5, 3)), ("bob", (2, None, 1)))
        for m, s in zip(("base", "sft", "dpo"), scores, strict=True)
    ]
    found = [(r.first, r.second, r.share, r.person) for r in rows_of(tmp_path, *rows)]
    assert found == [
        ("base", "sft", 0, "ann"), ("base", "dpo", 0.5, "ann"), ("sft", "dpo", 1, "ann"), ("base", "dpo", 1, "bob"),
    ]  # fmt: skip


def test_without_names_only_two_can_be_meant(tmp_path: Path) -> None:
    pair = ("dpo", "base")
    [by_name, tie] = rows_of(tmp_path, {"id": 1, "winner": "base"}, {"id": 2, "winner": "tie"}, pair=pair)
    assert (by_name.first, by_name.share, tie.share) == (None, 0, 0.5)
    blind = {"winner": "left", "completion_left": "x", "completion_right": "y"}
    for row, why in (({"winner": "left"}, "none of dpo, base"), (blind, "no methods' names")):
        file = read_labels(write_lines(tmp_path / "one.jsonl", [{"id": 1} | row, {"id": 2}]), {}, pair)
        assert not file.rows
        assert why in " ".join(file.unreadable), row


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "method": "dpo", "winner": "skip"},
        {"id": 1, "method": "dpo", "winner": None},
        {"id": 1, "method": "dpo", "winner": "dpo", "random": False},
        {"id": 1, "method": "dpo", "winner": "somebody"},
        {"method": "dpo", "winner": "dpo"},
        {"id": 1, "method": "dpo", "winner": "dpo", "random": True},
    ]
    file = read_labels(write_lines(tmp_path / "labels.jsonl", rows), {})
    assert (len(file.rows), file.skipped, file.not_random, sum(file.unreadable.values())) == (1, 2, 1, 2)
    with pytest.raises(TrimtabError, match=r"no labels. A row needs a winner, a preference or a score"):
        read_labels(write_lines(tmp_path / "none.jsonl", [{"id": 1, "text": "x"}]), {})
    with pytest.raises(TrimtabError, match="no such file"):
        read_labels(tmp_path / "gone.jsonl", {})


# ---- joined to what is compared


def outputs(name: str, text: str = "{}") -> MethodOutputs:
    return MethodOutputs(name, [GivenAnswer(str(i), f"ask  {i}", text.format(f"{name} {i}")) for i in range(3)])


def votes(tmp_path: Path, study: StudyOutputs, *rows: dict[str, Any], **asked: Any) -> Sequence[Vote]:
    return labels_of(write_lines(tmp_path / "labels.jsonl", rows), study, **asked).votes


def test_joined_by_id_or_text_and_named_as_people_do(tmp_path: Path) -> None:
    study = StudyOutputs({}, [outputs("sft"), outputs("sft_length")], outputs("them"))
    known = {"q2": "2"}
    found = [
        *votes(tmp_path, study, {"id": 0, "method": "SFT", "winner": "opponent", "person": "ann"}),
        *votes(tmp_path, study, {"prompt": " ask 1", "method_a": "sft_length", "method_b": "sft", "winner": "a"}),
        *votes(
            tmp_path, study, {"id": "q2", "method": "sft", "opponent": "opponent", "winner": "tie"}, aliases=known
        ),
    ]
    assert found == [
        Vote("0", "sft", "them", 0.0, "ann"),
        Vote("1", "sft_length", "sft", 1.0, "?"),
        Vote("2", "sft", "them", 0.5, "?"),
    ]


def test_one_method_alone_is_against_the_opponent_or_what_the_others_are_set_beside(tmp_path: Path) -> None:
    row = {"id": 0, "method": "dpo", "winner": "dpo"}
    methods = [outputs("sft"), outputs("dpo")]
    [against_opponent] = votes(tmp_path, StudyOutputs({}, methods, outputs("them")), row, start="sft")
    [against_start] = votes(tmp_path, StudyOutputs({}, methods), row, start="sft")
    assert (against_opponent.second, against_start.second) == ("them", "sft")


def test_labels_of_other_prompts_methods_and_answers_are_left_out(tmp_path: Path) -> None:
    study = StudyOutputs({}, [outputs("dpo")], outputs("base"))
    labels = labels_of(
        write_lines(tmp_path / "labels.jsonl", [
            {"id": 0, "winner": "dpo"},
            {"id": 9, "winner": "dpo"},
            {"id": 1, "method": "ppo", "winner": "ppo"},
            {"id": 1, "method": "base", "winner": "tie"},
            {"id": 1, "winner": "dpo", "completion": "an older answer", "opponent_completion": "base 1"},
            {"id": 2, "winner": "dpo", "completion": "dpo\n2", "opponent_completion": "base 2"},
        ]),
        study,
    )  # fmt: skip
    assert [vote.id for vote in labels.votes] == ["0", "2"]
    assert labels.told == [
        "1 label is of prompts that are not compared, left out",
        "1 label is of ppo, which is not compared, left out",
        "1 label is of base with itself, left out",
        "1 label is of other answers than those that are compared, left out",
    ]
    with pytest.raises(TrimtabError, match=r"no label is of what is compared. .*1 label is of prompts that"):
        votes(tmp_path, study, {"id": 9, "winner": "dpo"})


def test_training_seeds_are_said_or_told_by_the_answers(tmp_path: Path) -> None:
    study = StudyOutputs({s: [outputs("dpo", f"seed {s} {{}}")] for s in (3, 5)}, [], outputs("base"))
    found = votes(
        tmp_path, study,
        {"id": 0, "winner": "dpo", "seed": 5},
        {"id": 1, "winner": "dpo", "completion": "seed 5 dpo 1", "opponent_completion": "base 1"},
        {"id": 2, "winner": "dpo", "seed": 4},
        {"id": 2, "winner": "dpo"},
    )  # fmt: skip
    assert [(vote.id, vote.seed) for vote in found] == [("0", 5), ("1", 5)]
