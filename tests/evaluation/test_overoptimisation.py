"""Training reward and judge over GRPO's evaluations: together, apart, or not to be told."""

from __future__ import annotations

import pytest

from trimtab.evaluation.cautions import warnings_of
from trimtab.evaluation.overoptimisation import change, evaluations, reward_against_judge
from trimtab.evaluation.results import Provenance, Results, StageCurves
from trimtab.evaluation.verdict import verdict


def curves(reward: list[float | None], judge: list[float | None]) -> StageCurves:
    return StageCurves(
        validation=[
            {"step": 20 * i, "eval_reward": r, "eval_judge": j, "eval_kl": 2.5 * i}
            for i, (r, j) in enumerate(zip(reward, judge, strict=True))
        ]
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2, 3], 3),  # root mean square change 1: a rise of 3 exceeds 2
        ([0, 1, 2], 0),  # a rise of 2 doesn't
        ([0, 4, 4, 4, 4], 0),  # one jump of 4: root mean square √(16 / 4) = 2, and 4 isn't more than 4
        ([0, 4, 4, 4, 4, 4], 4),  # √(16 / 5) = 1.79, twice it 3.58
        ([0, -5, 4, -4, 1], 0),
        ([5, 5, 5], 0),
        ([0, -9], 0),  # two evaluations tell nothing of noise
    ],
)
def test_a_change_that_counts(values: list[float], expected: float) -> None:
    assert change(values) == expected


def test_three_ways() -> None:
    up, down, flat = [0.1, 0.4, 0.7, 1.0], [2.0, 1.5, 1.0, 0.5], [1.0, 1.2, 0.9, 1.0]
    assert reward_against_judge(evaluations(curves(up, down))) == "parted"
    assert reward_against_judge(evaluations(curves(up, up))) == "together"
    assert reward_against_judge(evaluations(curves(up, flat))) is None
    assert reward_against_judge(evaluations(curves(down, down))) is None, "the reward fell too: that is no hacking"
    assert reward_against_judge(evaluations(curves([], []))) is None


def test_rows_without_both_scores_are_passed_over() -> None:
    found = evaluations(curves([0.1, None, 0.7], [1.0, 2.0, 3.0]))
    assert [e.step for e in found] == [0, 40]
    assert [e.kl for e in found] == [0.0, 5.0]


def test_overoptimisation_is_a_warning_and_agreement_a_sentence() -> None:
    up, down = [0.1, 0.4, 0.7, 1.0], [2.0, 1.0, 0.0, -1.0]
    r = Results(name="t", curves={"grpo": curves(up, down)})
    assert warnings_of(r) == [
        "GRPO: training reward and judge parted, which is reward hacking: the training reward went from 0.10 to "
        "1.00, and the judge's score of the same completions from 2.00 to −1.00, by step 60 (KL to the reference "
        "7.5 nats). That is the end of training; the model that was kept may be an earlier one."
    ]
    assert "together" not in " ".join(verdict(r))
    r = Results(name="t", curves={"grpo": curves(up, up)})
    assert warnings_of(r) == []
    assert "GRPO: training reward and judge rose together" in " ".join(verdict(r))
    both = Results(name="t", curves={"grpo": curves(up, up), "ppo": curves(up, down)})
    assert "GRPO: training reward and judge rose together" in " ".join(verdict(both))
    assert [line.partition(",")[0] for line in warnings_of(both)] == ["PPO: training reward and judge parted"]


def test_every_seed_is_looked_at() -> None:
    up, down = [0.1, 0.4, 0.7, 1.0], [2.0, 1.0, 0.0, -1.0]
    r = Results(
        name="t",
        curves={"grpo": curves(up, up)},
        other_curves={5: {"grpo": curves(up, down)}, 6: {}},
        provenance=Provenance(seeds=[4, 5, 6]),
    )
    [warning] = warnings_of(r)
    assert "seed 5: the training reward went" in warning
    assert "seed 4" not in warning
    assert "seed 4: the training reward" in " ".join(verdict(r))
