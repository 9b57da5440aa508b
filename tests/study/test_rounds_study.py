"""A study with two rounds of online DPO on a reward model that it trains, and two training seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import Commands
from study.same_results import but_for_the_date
from training.toy import write_model
from trimtab.catalogue import label, ordered_methods
from trimtab.data.parsing import parse
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.models.lora import hash_model
from trimtab.recipe import Recipe
from trimtab.study.export import export_model
from trimtab.study.run import run_study

pytestmark = pytest.mark.slow

STAGE = {"batch_size": 4, "max_steps": 3, "evaluation_interval": 3, "logging_interval": 1, "learning_rate": 1e-3}


def recipe(model: Path, **changes: Any) -> dict[str, Any]:
    rounds = {"rounds": 2, "prompts": 6, "samples": 3, "sampling": {"max_new_tokens": 6}}
    return {
        "name": "rounds",
        "model": str(model),
        "opponent": str(model),
        "judge": "gold",
        "methods": ["base", "online_dpo", "sft"],
        "sandbox": {"train_rows": 24, "validation_rows": 8, "test_rows": 8},
        "sft": STAGE,
        "reward": STAGE,
        "online_dpo": {**STAGE, **rounds, "rewards": [{"kind": "trained"}]},
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 8}},
        **changes,
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("study") / "model")


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    out = tmp_path_factory.mktemp("study") / "run"
    return out, run_study(parse(Recipe, recipe(model), "test"), out, [0, 1])


def test_its_results(done: tuple[Path, Results]) -> None:
    out, results = done
    assert list(results.methods) == ["base", "sft", "online_dpo"]
    assert list(results.curves) == ["sft", "reward", "online_dpo-1", "online_dpo-2"]
    assert results.training_reward == "a reward model trained on this study's preferences"
    assert {"online_dpo-2", "samples of online_dpo-2"} <= set(results.provenance.wall_seconds)
    for seed in (0, 1):
        last = out / f"seed-{seed}" / "stages" / "online_dpo-2" / "best"
        assert results.provenance.hashes[f"online_dpo, seed {seed}"] == hash_model(str(last))
    # The opponent is the base: asked once, and without a win rate.
    assert not (out / "seed-0" / "evaluation" / "opponent").exists()
    assert results.opponent_result is not None
    assert results.opponent_method == "base"
    assert results.methods["base"].value("win_rate") is None
    page = (out / "report.html").read_text()
    assert "Online DPO, round 2" in page
    assert (out / "figures" / "curves_online_dpo-1.svg").is_file()


def test_the_seed_reaches_every_round(done: tuple[Path, Results]) -> None:
    """Each round of each seed has prompts and draws of its own."""
    folders = [done[0] / f"seed-{seed}" / "stages" / f"online_dpo-{n}-pairs" for seed in (0, 1) for n in (1, 2)]
    settings = [json.loads((folder / "stage.json").read_text())["settings"]["seed"] for folder in folders]
    assert settings == [0, 0, 1, 1]
    drawn = [(folder / "samples" / "00000.json").read_text() for folder in folders]
    tokens = [json.dumps([[s["tokens"] for s in of] for of in json.loads(text)["prompts"]]) for text in drawn]
    assert len(set(tokens)) == 4


def test_the_last_round_is_the_methods_model(done: tuple[Path, Results], tmp_path: Path) -> None:
    out = done[0]
    stages = out / "seed-0" / "stages"
    exported = export_model(out, tmp_path / "exported", "online_dpo", 0)
    weights = "model.safetensors"
    assert (exported / weights).read_bytes() == (stages / "online_dpo-2" / "best" / weights).read_bytes()
    cards = [(stages / f"online_dpo-{n}" / "best" / "README.md").read_text() for n in (1, 2)]
    assert ["## Results" in card for card in cards] == [False, True]
    assert "on samples of the model that it started from" in cards[0]
    assert "after sft, online_dpo-1" in cards[1]
    with pytest.raises(TrimtabError, match="It has: online_dpo-1, online_dpo-2, reward, sft, online_dpo"):
        export_model(out, tmp_path / "none", "online_dpo-1-pairs", 0)


def test_running_again_does_nothing_again(done: tuple[Path, Results], model: Path) -> None:
    out, first = done
    kept = {p: p.stat().st_mtime_ns for s in (0, 1) for p in (out / f"seed-{s}").rglob("*") if p.is_file()}
    again = run_study(parse(Recipe, recipe(model), "test"), out, [0, 1])
    assert but_for_the_date(again) == but_for_the_date(first)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_killed_in_a_round_and_run_again(
    done: tuple[Path, Results], model: Path, tmp_path: Path, commands: Commands
) -> None:
    """Three steps of SFT, of the reward model and of the first round, then the second of the second round."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(model)))
    words = ["study", str(file), "--out", str(tmp_path / "run")]
    ran = commands.in_turn([("step", 11, words), ("none", 1, words)])
    assert [one.returncode for one in ran] == [-9, 0]
    for stage in ("sft", "reward", "online_dpo-1", "online_dpo-2"):
        ours, theirs = (root / "seed-0" / "stages" / stage / "best" for root in (tmp_path / "run", done[0]))
        assert hash_model(str(ours)) == hash_model(str(theirs)), stage


def test_rounds_are_called_and_ordered() -> None:
    names = ["grpo", "online_dpo-2", "dpo", "online_dpo-1", "mine-3", "sft"]
    assert ordered_methods(names) == ["sft", "dpo", "online_dpo-2", "online_dpo-1", "grpo", "mine-3"]
    assert [label(name) for name in ("online_dpo", "online_dpo-12", "mine-3")] == [
        "Online DPO", "Online DPO, round 12", "mine-3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": []}, "method 'online_dpo' needs a reward: online_dpo.rewards"),
        ({"loss": "sft"}, "needs no pairs"),
        ({"rounds": 0}, "greater than 0"),
    ],
)
def test_what_a_recipe_cannot_say(changes: dict[str, Any], message: str, model: Path) -> None:
    value = recipe(model)
    value["online_dpo"] |= changes
    with pytest.raises(TrimtabError, match=message):
        parse(Recipe, value, "test")


def test_the_policy_itself_judges_only_in_rounds(model: Path) -> None:
    own = [{"kind": "yes_no"}]
    parse(Recipe, recipe(model, online_dpo={"rewards": own}), "test")
    with pytest.raises(TrimtabError, match="grpo's reward of kind 'yes_no' needs a model"):
        parse(Recipe, recipe(model, methods=["sft", "grpo"], grpo={"rewards": own}), "test")
    with pytest.raises(TrimtabError, match="no policy can judge itself"):
        parse(Recipe, recipe(model, judge="yes_no"), "test")
    other = {"sandbox": None, "data": {"train": "x"}, "judge": None, "opponent": None}
    with pytest.raises(TrimtabError, match="knows the sandbox's world only"):
        parse(Recipe, recipe(model, online_dpo={"rewards": [{"kind": "gold"}]}, **other), "test")
