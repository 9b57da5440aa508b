"""A file of votes as labels, and ties that nobody need be asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefer.cast import item, vote_all
from trimtab.evaluation.answers import Answers
from trimtab.evaluation.outputs import GivenAnswer, MethodOutputs
from trimtab.evaluation.people import people_of
from trimtab.evaluation.summary import StudyOutputs
from trimtab.evaluation.votes import Labels
from trimtab.prefer.ballot import Ballot, NewVote
from trimtab.readers.labels import LabelRow, check_labels, read_labels, without_labels
from trimtab.readers.votes import labels_of


def outputs(prompts: int, same: int = 0) -> StudyOutputs:
    """sft and dpo, the last prompts of which they answer with the same text."""
    made = [
        MethodOutputs(
            name,
            [
                GivenAnswer(f"p{i}", f"ask {i}", f"{name} {i}" if i < prompts - same else f"both {i} ")
                for i in range(prompts)
            ],
        )
        for name in ("sft", "dpo")
    ]
    return StudyOutputs({}, made[1:], made[0])


def test_votes_are_labels(tmp_path: Path) -> None:
    """Whichever side an answer stood on. Skips, undone votes and items not drawn by chance are none."""
    items = [item(0), item(1), item(2), item(3, purpose="training"), item(4, purpose="own")]
    ballot = Ballot(tmp_path / "votes.sqlite", items, per_item=1)
    for n, verdict in enumerate(("left", "both bad", "skip", "right", "left")):
        ballot.record(NewVote(f"v{n}", items[n].id, "ann", False, verdict))  # type: ignore[arg-type]
    ballot.record(NewVote("again", items[0].id, "ann", True, "left"))
    ballot.record(NewVote("gone", items[0].id, "bob", False, "left"))
    assert ballot.undo("bob", "gone", "undo")
    first = next(vote.share for vote in ballot.votes() if vote.vote_id == "v0")
    ballot.close()
    path = tmp_path / "votes.sqlite"
    check_labels(path)
    file = read_labels(path, {})
    assert file.rows == [
        LabelRow("p0", "ask 0", "dpo", "sft", share, "ann", None, ("dpo 0", "sft 0")) for share in [first]
    ] + [
        LabelRow("p1", "ask 1", "dpo", "sft", 0.5, "ann", None, ("dpo 1", "sft 1")),
        LabelRow("p0", "ask 0", "dpo", "sft", 1 - (first or 0), "ann", None, ("dpo 0", "sft 0")),
    ]
    assert (file.skipped, file.not_random, len(file.cast)) == (1, 2, 6)
    assert without_labels({"winner": "x"}, path) == {"winner": "x"}
    labels = labels_of(path, outputs(8))
    assert len(labels.votes) == 3
    assert labels.told == [
        "1 label is without a judgement, left out",
        "2 labels are marked as not random, left out",
    ]
    numbers = people_numbers(labels, outputs(8))
    assert (numbers.value, numbers.n) == (0.5, 2)  # the repeated vote goes into the person's mean


def people_numbers(labels: Labels, study: StudyOutputs):  # type: ignore[no-untyped-def]
    assert study.opponent is not None
    people = people_of(labels, {"dpo": [Answers(study.fixed[0])]}, Answers(study.opponent), [])
    [number] = people.numbers
    assert people.voting is not None
    return number.labels


def test_identical_answers_are_ties_by_their_share(tmp_path: Path) -> None:
    """Of 100 prompts 40 have the same answers. dpo wins all of the other 60, of which 30 are asked about: its win
    rate is 0.6 · 1 + 0.4 · ½ = 0.8, by labels alone. All 40 as ties would make it 0.71, none 1."""
    path = vote_all(tmp_path / "votes.sqlite", [item(i) for i in range(30)], ["ann"], lambda *_: "first", 1)
    study = outputs(100, same=40)
    labels = labels_of(path, study)
    assert len(labels.ties) == 20
    assert {vote.id for vote in labels.ties} <= {f"p{i}" for i in range(60, 100)}
    numbers = people_numbers(labels, study)
    assert (numbers.value, numbers.n) == (pytest.approx(0.8), 50)


def test_where_people_were_asked_about_identical_answers_nothing_is_added(tmp_path: Path) -> None:
    items = [item(i) for i in range(9)] + [item(9, texts=("both 9", "both 9 "))]
    path = vote_all(tmp_path / "votes.sqlite", items, ["ann"], lambda *_: "first", 1)
    assert labels_of(path, outputs(20, same=11)).ties == []
