"""A checkpoint chosen by a judge: what it is asked, when, and which weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from training.toy import write_model
from trimtab.data.parsing import parse
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.files import read_json
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.recipe import Recipe
from trimtab.rewards.base import Reward, Scored
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

SETTINGS = {
    "learning_rate": 1e-3, "batch_size": 2, "max_steps": 4, "evaluation_interval": 1, "logging_interval": 1,
    "warmup_steps": 0, "best_metric": "judge", "best_is": "highest", "judged_prompts": 3, "judged_tokens": 5,
}  # fmt: skip


class Scripted(Reward):
    """Says at each evaluation what the test says, of every answer; of the last one that it has no score."""

    name, signature = "scripted", "scripted|1"

    def __init__(self, says: Sequence[float], compares: bool = False) -> None:
        self.says, self.asked, self.pairwise = list(says), [], compares  # type: ignore[var-annotated]

    @property
    def compares(self) -> bool:  # type: ignore[override]
        return self.pairwise

    def scored(self, prompts: Sequence[Any], completions: Sequence[str], **more: Any) -> list[Scored]:
        self.asked.append((list(prompts), list(completions), more["columns"]))
        value = self.says[len(self.asked) - 1]
        return [Scored(value - 1), Scored(value + 1), Scored(None, "it was out")][: len(prompts)]


@pytest.fixture
def rows(write_jsonl: Callable[..., Path]) -> DataSettings:
    def some(count: int, what: str) -> list[dict[str, str]]:
        return [
            {"prompt": f"{what} {i}?", "chosen": f"It is {i}.", "rejected": f"No {i}", "note": f"n{i}"}
            for i in range(count)
        ]

    train, validation = write_jsonl(some(8, "What"), "train.jsonl"), write_jsonl(some(5, "Who"), "validation.jsonl")
    return DataSettings(train=str(train), validation=str(validation))


@pytest.mark.parametrize(("method", "settings"), [(SFT, SFTSettings), (DPO, DPOSettings)])
def test_the_answers_that_a_judge_likes_best_choose(
    method: Any, settings: Any, rows: DataSettings, tmp_path: Path
) -> None:
    judge, model = Scripted([0.1, 0.5, 0.9, 0.4, 0.9]), write_model(tmp_path / "model")
    chosen = settings.model_validate(SETTINGS)
    best = run_stage("stage", method, chosen, rows, str(model), tmp_path / "stage", judge=judge)
    assert [
        row["eval_judge"] for row in read_metrics(tmp_path / "stage" / "metrics.jsonl") if "eval_judge" in row
    ] == [pytest.approx(value) for value in judge.says]
    done = read_json(tmp_path / "stage" / "done.json", "")
    assert (done["best_step"], done["best"]) == (2, pytest.approx(0.9)), "of two that are alike the earliest"
    assert any("1 of 3 validation answers have no score by scripted" in line for line in done["warnings"])
    for prompts, completions, columns in judge.asked:
        assert prompts == ["Who 0?", "Who 1?", "Who 2?"]
        assert len(completions) == 3
        assert columns["note"] == ["n0", "n1", "n2"]
    shorter = settings.model_validate(SETTINGS | {"max_steps": 2, "schedule": "constant"})
    same = settings.model_validate(SETTINGS | {"schedule": "constant"})
    weights = []
    for name, wanted, says in (("two", shorter, [0, 0, 1]), ("four", same, [0, 0, 1, 0, 0])):
        kept = run_stage("stage", method, wanted, rows, str(model), tmp_path / name, judge=Scripted(says))
        weights.append(load_file(kept / "model.safetensors"))
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0]), "step 2's weights are kept"
    assert best.is_dir()
    assert read_json(tmp_path / "stage" / "stage.json", "")["judge"] == "scripted|1"


def test_what_a_judge_cannot_choose(rows: DataSettings, tmp_path: Path) -> None:
    model, settings = str(write_model(tmp_path / "model")), SFTSettings.model_validate(SETTINGS)
    wrong: list[tuple[Reward | None, DataSettings, str]] = [
        (None, rows, "best_metric=judge needs a judge that scores answers, and there is none"),
        (Scripted([], compares=True), rows, "and scripted compares two answers"),
        (Scripted([1.0]), rows.model_copy(update={"validation": None}), "needs validation prompts"),
    ]
    for number, (judge, data, said) in enumerate(wrong):
        with pytest.raises(TrimtabError, match=said):
            run_stage("sft", SFT, settings, data, model, tmp_path / str(number), judge=judge)
    recipe = {
        "name": "x",
        "model": "m",
        "data": {"train": "x"},
        "dpo": {"best_metric": "judge", "best_is": "highest"},
    }
    with pytest.raises(
        TrimtabError, match=r"dpo\.best_metric: judge needs a judge, which the recipe does not name"
    ):
        parse(Recipe, yaml.safe_load(yaml.safe_dump(recipe)), "r.yaml")
