"""Curricula: what may be drawn when, how often, and by which difficulty; messages where there is none."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.grpo_runs import reward_named
from trimtab.data.groups import CompletionGroup
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.methods.table import METHODS
from trimtab.training.difficulty import Difficulty, check_order
from trimtab.training.metrics import read_metrics
from trimtab.training.order import PacedDraws, RandomDraws, share_of_step, steps_of_data
from trimtab.training.order_settings import OrderSettings
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import run_stage

GROUPS = [CompletionGroup((1,), ((2,),), index=i) for i in range(10)]
FALLING = np.arange(10)[::-1].copy()
"""The last place is the easiest."""


def order(**given: Any) -> OrderSettings:
    return OrderSettings(**{"by": "length"} | given)


def draws(size: int, of_run: int, metric: str | None = None, **given: Any) -> PacedDraws:
    settings = TrainingSettings(learning_rate=1, batch_size=size, seed=3, order=order(**given))
    return PacedDraws(GROUPS, FALLING, settings, of_run, metric)


# ---- the pace


def test_shares_by_hand() -> None:
    linear = order(start=0.2, steps=4)
    assert [share_of_step(linear, t, 100) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    half = order(start=0.2)
    assert [share_of_step(half, t, 8) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    root = order(start=0.6, steps=2, pace="root")
    assert [share_of_step(root, t, 9) for t in range(4)] == pytest.approx([0.6, math.sqrt(0.68), 1, 1])


def test_steps_that_share_a_batch_draw_once() -> None:
    settings = TrainingSettings(learning_rate=1, max_steps=7)
    assert steps_of_data(settings, 99, 2) == 4
    assert steps_of_data(TrainingSettings(learning_rate=1, batch_size=4, epochs=2), 10, 2) == 5


def test_all_rows_from_the_start_are_the_order_without_a_curriculum() -> None:
    paced = draws(4, 8, start=1.0)
    plain = RandomDraws(GROUPS, TrainingSettings(learning_rate=1, batch_size=4, seed=3))
    for step in range(8):
        assert [g.index for g in paced.of_step(step)] == [g.index for g in plain.of_step(step)]


def test_an_epoch_draws_each_row_once_and_none_too_soon() -> None:
    """Five steps of two; the shares of rows are 0.2, 0.4, 0.6, 0.8, 1: the hardest row, place 0, comes last."""
    paced = draws(2, 5, start=0.2, steps=4)
    seen = [paced.places(step) for step in range(5)]
    for step, places in enumerate(seen):
        assert min(places) >= 10 - 2 * (step + 1)
    assert sorted(p for places in seen for p in places) == list(range(10))
    assert paced.counts().tolist() == [1] * 10
    assert set(seen[0]) == {8, 9}, "no row is twice in a step"
    half = draws(2, 5, start=0.1, steps=2)
    assert set(half.places(0)) == {8, 9}, "a share of one row is too little for a step of two"
    assert len({p for step in range(5) for p in half.places(step)}) == 10


def test_where_the_pace_is_slower_than_the_draws_easy_rows_come_oftener() -> None:
    """Ten steps of two; the shares are 0.2, 0.4, 0.6, 0.8 and 1 with two steps each. A pass is done when all that
    may be drawn have been, and a row joins the pass that is going on."""
    paced = draws(2, 10, start=0.2, steps=8)
    counts = Counter(p for step in range(10) for p in paced.places(step))
    assert paced.counts().tolist() == [counts[p] for p in range(10)]
    assert sum(counts.values()) == 20
    assert counts[9] > counts[0] >= 1


def test_an_earlier_step_is_drawn_again_the_same() -> None:
    paced = draws(3, 12, start=0.3, steps=9)
    seen = [paced.places(step) for step in range(12)]
    assert paced.places(5) == seen[5]
    assert draws(3, 12, start=0.3, steps=9).places(11) == seen[11]


def test_a_metric_sets_the_pace() -> None:
    """Bound 0.5 over two steps: 0.4 and 0.6 reach it, so that 0.3 more may be drawn; then the mean begins anew."""
    given: dict[str, Any] = {"start": 0.2, "pace": "metric", "bound": 0.5, "growth": 0.3, "window": 2}
    paced = draws(2, 9, "accuracy", **given)
    shares = []
    for step, value in enumerate([0.4, 0.6, 0.9, 0.0, 0.9, 0.2, 0.8]):
        assert min(paced.places(step)) >= 10 - round(10 * paced.share(step))
        shares.append(paced.see({"accuracy": value})["order/share"])
    assert shares == pytest.approx([0.2, 0.2, 0.5, 0.5, 0.5, 0.5, 0.8])
    assert paced.see({})["order/share"] == pytest.approx(0.8), "a step that was not taken changes nothing"
    again = draws(2, 9, "accuracy", **given)
    again.load_state(json.loads(json.dumps(paced.state())))
    assert again.share(7) == paced.share(7) == pytest.approx(0.8)
    assert [again.places(step) for step in range(9)] == [paced.places(step) for step in range(9)]
    shared = draws(2, 9, "reward", **given | {"window": 1})
    shared.places(0)
    assert [shared.see(m)["order/share"] for m in ({"reward": 0.9}, {"loss": 1.0})] == [0.2, 0.2], "of one batch"
    first = draws(2, 9, "accuracy", **given)
    first.places(0)
    with pytest.raises(TrimtabError, match=r"^order.metric 'accuracy' is no metric of a training step: loss.$"):
        first.see({"loss": 1.0})


# ---- difficulty


def test_ties_go_by_place_and_rows_without_a_number_come_last() -> None:
    rows = Difficulty(np.array([2.0, math.nan, 1.0, 2.0, 1.0]), "x", high_is_easy=False)
    assert rows.ranking().tolist() == [2, 4, 0, 3, 1]
    assert rows.ranking(hard_first=True).tolist() == [0, 3, 2, 4, 1]
    assert rows._replace(high_is_easy=True).ranking().tolist() == [0, 3, 2, 4, 1]
    assert rows.summary == "x, quartiles 1, 1, 1.5, 2, 2; 1 rows without one come last"


def scored_pairs(path: Path) -> Path:
    """Twelve pairs whose margins are 11 to 0, whose lengths grow, and whose column `difficulty` alternates."""
    rows = [
        {
            "prompt": "Which is best?",
            "chosen": "Paris is " + "very " * i + "good.",
            "rejected": "Paris is bad.",
            "score_chosen": 11.0,
            "score_rejected": float(i),
            "difficulty": i % 2,
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stage(
    method: str, model: Path, rows: Path, out: Path, reward: Any = None, **given: Any
) -> list[dict[str, Any]]:
    entry = METHODS[method]
    given = {"batch_size": 3, "max_steps": 4, "learning_rate": 1e-4, "precision": "float32"} | given
    settings = entry.settings.model_validate({"token_budget": 400, "logging_interval": 1} | given)
    run_stage(method, entry.method, settings, DataSettings(train=str(rows)), str(model), out, reward=reward)
    return read_metrics(out / "metrics.jsonl")


PACE = {"start": 0.25, "steps": 3}


def drawn_of(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What the steps of the next stage draw, as indices of rows."""
    seen: list[list[int]] = []
    original = PacedDraws.of_step

    def watched(self: PacedDraws, step: int) -> list[CompletionGroup]:
        groups = original(self, step)
        seen.append(sorted(group.index for group in groups))
        return groups

    monkeypatch.setattr(PacedDraws, "of_step", watched)
    return seen


@pytest.mark.parametrize(
    ("by", "first"), [("margin", [0, 1, 2]), ("length", [0, 1, 2]), ("column", [0, 2, 4]), ("reward", [9, 10, 11])]
)
def test_what_the_data_say(
    by: str, first: list[int], toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Margins are 11 − i, and means of scores (11 + i) / 2."""
    seen = drawn_of(monkeypatch)
    rows = stage("dpo", toy_model, scored_pairs(tmp_path / "rows.jsonl"), tmp_path / "out", order=PACE | {"by": by})
    assert seen[0] == first
    assert sorted(i for step in seen for i in step) == list(range(12))
    assert [row["order/share"] for row in rows if "loss" in row] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    said = capfd.readouterr().err
    assert "dpo: easy rows first, by " in said
    assert "the steps draw each row 1 to 1 times" in said
    if by == "margin":
        assert "score of chosen − score of rejected, quartiles 0, 2.75, 5.5, 8.25, 11" in said


def test_what_the_starting_model_says(
    toy_model: Path, toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By loss, SFT's first step has the rows of the lowest loss; by margin without scores it is DPO's reference."""
    seen = drawn_of(monkeypatch)
    by_loss = {"by": "loss", "start": 0.05, "steps": 9}
    stage("sft", toy_model, toy_pairs, tmp_path / "easy", order=by_loss)
    (kept,) = (tmp_path / "easy" / "reference").glob("*.safetensors")
    stage("sft", toy_model, toy_pairs, tmp_path / "hard", order=by_loss | {"direction": "hard_first"})
    easy, hard = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("easy", "hard"))
    first, last = (next(row["loss"] for row in rows if "loss" in row) for rows in (easy, hard))
    assert kept.is_file()
    assert last - first > 0.2
    assert not set(seen[0]) & set(seen[4])
    stage("dpo", toy_model, toy_pairs, tmp_path / "dpo", order={"by": "margin", "start": 0.05, "steps": 9})
    assert len(list((tmp_path / "dpo" / "reference").glob("*.safetensors"))) == 1, "the reference's serve both"


def test_rewards_of_the_starting_model(
    stopping_model: Path, toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The first step has the prompts that the starting model's samples score highest on; drawn once, and kept."""
    seen = drawn_of(monkeypatch)
    given: dict[str, Any] = {
        "order": {"by": "reward", "samples": 3, "start": 0.05, "steps": 9}, "samples": 2, "max_steps": 2,
        "sampling": {"max_new_tokens": 6}, "kl_coefficient": 0.0,
    }  # fmt: skip
    reward = reward_named(tmp_path, "low")
    stage("grpo", stopping_model, toy_pairs, tmp_path / "a", reward, **given)
    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    means = np.array(calls[0][2]).reshape(60, 3).mean(1)
    assert seen[0] == sorted(np.argsort(-means, kind="stable")[:3].tolist())
    assert len(calls) == 3
    (tmp_path / "a" / "done.json").unlink()
    stage("grpo", stopping_model, toy_pairs, tmp_path / "a", reward, **given)
    assert "3 samples of each of 60 prompts" in capfd.readouterr().err
    assert len((tmp_path / "calls.jsonl").read_text().splitlines()) == 5, "two steps more, and no prompt again"


# ---- what there is no order for


PAIR = Record("p", ("a", "b"), origin="x:1")
SCORED = Record("p", ("a", "b"), scores=(2.0, 1.0), origin="x:2", columns={"difficulty": "hard"})


@pytest.mark.parametrize(
    ("method", "given", "records", "message"),
    [
        (
            "grpo",
            {"by": "loss"},
            [PAIR],
            "grpo: order by loss needs the starting model's loss, and grpo trains on prom",
        ),
        ("reward", {"by": "loss"}, [PAIR], "reward: order by loss .* begins with a head that is random"),
        ("reward", {"by": "margin"}, [SCORED, PAIR], "reward: order by margin needs a score .* x:1 has not both"),
        ("sft", {"by": "margin"}, [PAIR], "sft: order by margin needs a score"),
        ("dpo", {"by": "reward"}, [PAIR], "dpo: order by reward needs rows with scores, and x:1 has none"),
        (
            "sft",
            {"by": "column"},
            [PAIR],
            "x:1: order by column needs a number, and there is no column 'difficulty'",
        ),
        ("sft", {"by": "column"}, [SCORED], "x:2: order by column needs a number, and there is 'hard' in column"),
        ("sft", {"pace": "metric", "bound": 1}, [PAIR], "sft: it has no accuracy of its own to set a pace"),
    ],
)
def test_what_cannot_be_told(method: str, given: dict[str, Any], records: list[Record], message: str) -> None:
    settings = METHODS[method].settings.model_validate({"order": {"by": "length"} | given})
    with pytest.raises(TrimtabError, match=f"^{message}"):
        check_order(method, METHODS[method].method, settings, records)


def test_what_can_be_told() -> None:
    for method, by in (("dpo", "margin"), ("grpo", "reward"), ("sft", "loss"), ("reward", "length")):
        settings = METHODS[method].settings.model_validate({"order": {"by": by}})
        check_order(method, METHODS[method].method, settings, [PAIR])


@pytest.mark.parametrize(
    "given", [{"pace": "metric"}, {"bound": 0.5}, {"column": "x"}, {"pace": "metric", "bound": 1, "steps": 3}]
)
def test_settings_that_mean_nothing_together(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs 'bound'|takes no|is for by: column"):
        order(**given)
