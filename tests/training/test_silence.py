"""Rewards that say nothing are told, counted, and end a run that learns nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.grpo_runs import grpo
from training.toy import write_pairs
from trimtab.data.groups import CompletionGroup
from trimtab.errors import TrimtabError
from trimtab.methods.rollouts import Scoring
from trimtab.methods.silence import COMPLETIONS, FIRST, LATER, ScoreWatch, Tally, tally
from trimtab.notices import collected
from trimtab.rewards.base import Scored
from trimtab.training.metrics import read_metrics

NONE = Tally(16, 0, 0.0, 0.0, ("f gave None",) * 16)
EQUAL = Tally(4, 4, 1.0, 1.0, ())
GOOD = Tally(4, 3, 0.0, 1.0, ("f gave nan",))


def test_a_tally_by_hand() -> None:
    scored = [Scored(2.0), Scored(None, "f gave None"), Scored(-1.0)]
    assert tally(Scoring(CompletionGroup((1,), ((2,),)), [], [], scored)) == Tally(
        3, 2, -1.0, 2.0, ("f gave None",)
    )


def test_a_reward_that_never_speaks_ends_the_run() -> None:
    watch = ScoreWatch("grpo", by_group=True)
    with collected() as told:
        for _ in range(FIRST - 1):
            watch.see([NONE])
        with pytest.raises(TrimtabError, match=r"none of the 48 completions of 3 batches .*\(16 × f gave None\)"):
            watch.see([NONE])
    assert told.lines == [
        "2 of 2 batches had no score at all (the last: 16 × f gave None); nothing was learnt from them."
    ]


def test_small_batches_without_a_score_are_no_end_until_there_are_many() -> None:
    """Two completions at a time: 3 batches say little of data of several tasks; 16 have 32 of them."""
    watch, small = ScoreWatch("grpo", by_group=True), NONE._replace(completions=2)
    with collected():
        for _ in range(COMPLETIONS // 2 - 1):
            watch.see([small])
        with pytest.raises(TrimtabError, match="16 batches in a row"):
            watch.see([small])


def test_after_a_first_score_silence_is_borne_longer_and_the_last_batch_alone_is_no_end() -> None:
    watch = ScoreWatch("grpo", by_group=True)
    with collected() as told:
        watch.see([GOOD])
        for _ in range(LATER - 1):
            watch.see([NONE])
        watch.see([GOOD])
        for _ in range(LATER - 1):
            watch.see([NONE], last=True)
        with pytest.raises(TrimtabError, match="20 batches in a row"):
            watch.see([NONE])
    assert told.lines[0].startswith("38 of 40 batches had no score at all")


def test_a_run_of_one_batch_without_a_score_ends() -> None:
    with collected(), pytest.raises(TrimtabError, match="none of the 16 completions of the batch has a score"):
        ScoreWatch("ppo", by_group=False).see([NONE], last=True)


@pytest.mark.parametrize(
    ("by_group", "batch", "equal"),
    [
        (True, [EQUAL, EQUAL._replace(low=3.0, high=3.0)], True),
        (True, [EQUAL, GOOD], False),
        (True, [EQUAL, NONE], True),
        (True, [EQUAL._replace(scores=1)], False),  # one score is equal to nothing
        (False, [EQUAL, EQUAL], True),
        (False, [EQUAL, EQUAL._replace(low=3.0, high=3.0)], False),
        (False, [EQUAL._replace(scores=1), EQUAL._replace(scores=1)], True),
    ],
)
def test_equal_scores_are_told_with_their_share(by_group: bool, batch: list[Tally], equal: bool) -> None:
    watch = ScoreWatch("grpo", by_group)
    with collected() as told:
        watch.see(batch)
        watch.see([GOOD])
    assert [line.startswith("in 1 of 2 batches all completions") for line in told.lines] == [True] * equal


def test_a_run_that_goes_on_counts_on() -> None:
    first, second = ScoreWatch("grpo", by_group=True), ScoreWatch("grpo", by_group=True)
    with collected() as told:
        first.see([EQUAL])
        second.load_state(json.loads(json.dumps(first.state())))
        second.see([EQUAL])
    assert told.lines[0].startswith("in 2 of 2 batches")


# ---- as a stage


def test_validation_without_a_score_ends_a_run_that_chooses_by_it(stopping_model: Path, tmp_path: Path) -> None:
    """Before the first step, with the reason."""
    prompts = tmp_path / "prompts.jsonl"
    pairs = write_pairs(tmp_path / "pairs.jsonl", 12).read_text().splitlines()
    prompts.write_text("".join(json.dumps({"prompt": json.loads(line)["prompt"]}) + "\n" for line in pairs))
    with pytest.raises(
        TrimtabError, match=r"reward nothing gave none of the 4 validation completions a score \(4 ×"
    ):
        grpo(stopping_model, prompts, tmp_path / "a", "nothing", validation=4)
    # At the first evaluation there is a score for each, then for none: it is told, and no weights are chosen by it.
    ran = grpo(stopping_model, prompts, tmp_path / "b", "at_first", validation=4, evaluation_interval=1)
    done = json.loads((ran.out / "done.json").read_text())
    assert done["best_step"] == 0
    assert (
        "at_first gave none of the 4 validation completions a score (4 × at_first gave None)." in done["warnings"]
    )
    assert [row["eval_reward"] is None for row in ran.evaluations] == [False, True, True]


def test_names_that_are_taken_get_a_prefix(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """A function's log_metric("loss") is no part of the loss, nor its column "reward" the reward."""
    ran = grpo(stopping_model, toy_pairs, tmp_path, "names", max_steps=1, kl_coefficient=0.0)
    row = ran.rows[0]
    assert row["reward_function/loss"] == row["reward_function/reward"] == 1e6
    assert abs(row["loss"]) < 1e3
    assert row["reward"] < 100
    assert {one["rewards/reward"] for one in ran.completions} == {"mine"}
    assert all(isinstance(one["reward"], float) and one["step"] == 1 for one in ran.completions)


def test_huge_scores_leave_every_metric_finite(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """±1e18, and 1e308, which is missing: whatever is logged is a number."""
    ran = grpo(stopping_model, toy_pairs, tmp_path, "huge", max_steps=2)
    for row in (*read_metrics(ran.out / "metrics.jsonl"), *ran.completions):
        assert all(value is not None for name, value in row.items() if name not in ("reward", "advantage")), row
