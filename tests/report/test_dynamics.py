"""Figures of training, and of behaviours: with all that they need, with a part of it, with nothing."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.results import Results, StageCurves
from trimtab.report.dynamics import PANELS, curves, has_data, panels_of
from trimtab.report.figures import all_figures
from trimtab.report.render import render_html

STEPS = [{"step": 10 * i, "loss": 1.0 - i / 10, "grad_norm": 1.0 + i} for i in range(1, 5)]


def path(*values: tuple[float | None, float | None, float | None]) -> StageCurves:
    rows = [
        {"step": 10 * i, "eval_reward": r, "eval_judge": j, "eval_kl": kl} for i, (r, j, kl) in enumerate(values)
    ]
    return StageCurves(train=STEPS, validation=rows)


def shown(r: Results) -> set[str]:
    found = all_figures(r)
    for drawing in found.values():
        ElementTree.fromstring(drawing.svg)
        assert drawing.records
    return set(found)


def test_over_optimisation_needs_reward_judge_and_kl() -> None:
    def figures(curves: StageCurves, stage: str = "grpo") -> set[str]:
        return shown(Results(name="t", curves={stage: curves})) & {"over_optimisation_grpo"}

    assert figures(path((0.1, 2.0, 0.0), (0.5, 1.0, 3.0)))
    assert figures(path((0.1, 2.0, 0.0), (None, 2.0, 1.0), (0.5, 1.0, 3.0))), "a row without is passed over"
    assert figures(path((0.1, 2.0, 1.0), (0.5, 1.0, 1.0))), "all at one KL"
    assert not figures(path((0.1, 2.0, 0.0)))
    assert not figures(path((0.1, None, 0.0), (0.5, None, 3.0))), "nobody judged"
    assert not figures(path((0.1, 2.0, None), (0.5, 1.0, None)))
    assert not figures(path((0.1, 2.0, 0.0), (0.5, 1.0, 3.0)), "dpo")
    hacked = StageCurves(train=STEPS, validation=path((0.1, 2.0, 0.0), (0.5, 1.0, 3.0)).validation)
    assert "over_optimisation_ppo" in shown(Results(name="t", curves={"ppo": hacked}))
    page = render_html(Results(name="t", curves={"ppo": hacked}))
    assert "Figure over_optimisation_ppo: PPO at each evaluation" in page
    assert "Figure over_optimisation_grpo:" not in page


def test_length_penalty_figure() -> None:
    values = {"length_penalty/value": 90.0, "length_penalty/grad_norm": 12.0}
    taken = StageCurves(train=[row | values if row["step"] == 20 else row for row in STEPS])
    assert "length_penalty" in shown(
        Results(name="t", curves={"sft_length": taken, "sft": StageCurves(train=STEPS)})
    )
    assert "length_penalty" in shown(Results(name="t", curves={"sft_length": taken})), "without SFT's beside it"
    idle = StageCurves(train=[row | dict.fromkeys(values, 0.0) for row in STEPS])
    assert "length_penalty" in shown(Results(name="t", curves={"sft_length": idle})), "0 has no logarithm"
    assert "length_penalty" not in shown(Results(name="t", curves={"sft_length": StageCurves(train=STEPS)}))
    assert "length_penalty" not in shown(Results(name="t", curves={"sft": taken}))


def panels(stage: str, **keys: float) -> list[str]:
    """Titles of the panels that a stage's figure has when these were logged."""
    rows = [{"step": i, **keys} for i in range(3)]
    train = [{k: v for k, v in row.items() if not k.startswith("eval_")} for row in rows]
    curves = StageCurves(train=train, validation=rows)
    return [panel.title for panel in panels_of(stage) if has_data(panel, curves)]


def test_panels_of_each_stage() -> None:
    """As the report has them: DPO's implicit rewards first, then losses; GRPO's accuracy, KL and loss first."""
    rewards = {"rewards/chosen": 0.1, "rewards/rejected": -0.1, "rewards/margins": 0.2, "rewards/accuracies": 0.6}
    found = panels("dpo", loss=0.6, **rewards)
    assert found == [
        "implicit reward, β · log-ratio",
        "implicit reward margin",
        "loss",
        "preference accuracy, share",
    ]
    found = panels("grpo", loss=0.6, eval_kl=3.0, **{"eval_rewards/accuracies": 0.6, "eval_rewards/chosen": 0.2})
    assert found == ["preference accuracy, share", "KL to reference, nats", "loss"]
    assert panels("reward", eval_accuracy=0.7) == ["accuracy on pairs (95 % interval)"]
    assert panels("mine", reward=1.0, loss=0.2) == ["loss", "training reward"]
    assert panels("sft") == []


@pytest.mark.parametrize("stage", ["sft", "sft_length", "dpo", "reward", "grpo", "ppo", "mine"])
def test_curves_of_every_stage_from_one_row_to_several_seeds(stage: str) -> None:
    keys = {k for panel in PANELS.values() for k in panel.keys} | {"accuracy/low", "accuracy/high"}
    row = {"step": 1, **dict.fromkeys(keys, 0.5), **{f"eval_{k}": 0.5 for k in keys}}
    one = StageCurves(train=[row], validation=[row])
    assert curves(stage, {0: one}) is not None
    assert curves(stage, {0: one, 1: one, 2: StageCurves()}) is not None
    assert curves(stage, {0: StageCurves()}) is None
    lost = StageCurves(train=[{"step": 1, "loss": float("nan")}])
    assert curves(stage, {0: lost}) is None


def test_behaviours_figure() -> None:
    one = MethodResult(behaviours={"loops": 0.5, "empty": None})
    assert shown(Results(name="t", methods={"dpo": one})) == {"behaviours"}
    none = MethodResult(behaviours={"empty": None})
    assert shown(Results(name="t", methods={"dpo": none, "sft": MethodResult()})) == set()
