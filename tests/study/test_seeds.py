"""Several training seeds of one study: a folder each, nothing done twice, one pooled result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.toy import write_model
from trimtab.data.parsing import parse
from trimtab.errors import TrimtabError
from trimtab.recipe import Recipe
from trimtab.study.run import run_study
from trimtab.study.seeds import recipe_of_seed, seeds_of

STAGE = {"batch_size": 4, "max_steps": 2, "evaluation_interval": 2, "learning_rate": 1e-3}


def recipe(model: str | Path, **changes: Any) -> Recipe:
    value = {
        "name": "small",
        "model": str(model),
        "opponent": str(model),
        "judge": "gold",
        "methods": ["base", "sft"],
        "sandbox": {"train_rows": 24, "validation_rows": 8, "test_rows": 12},
        "sft": STAGE,
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 8}},
        **changes,
    }
    return parse(Recipe, value, "test")


def test_stages_follow_the_seed_but_for_those_that_set_their_own() -> None:
    """Data keep theirs: data.seed 3 is also the recipe's, and stays."""
    made = recipe(
        "m", seed=3, dpo={"seed": 7}, sandbox={"seed": 3, "train_rows": 5}, methods=["base", "sft", "dpo"]
    )
    other = recipe_of_seed(made, 4)
    assert (other.seed, other.sft.seed, other.dpo.seed, other.reward.seed, other.grpo.seed) == (4, 4, 7, 4, 4)
    assert other.online_dpo.seed == 4
    assert other.sandbox is not None
    assert (other.sandbox.seed, other.sandbox.train_rows) == (3, 5)
    assert other.sft.learning_rate == made.sft.learning_rate
    assert recipe_of_seed(other, 3) == made
    assert recipe_of_seed(made, 3) is made


def test_rewards_survive_another_seed() -> None:
    made = recipe(
        "m", methods=["sft", "grpo"], grpo={"rewards": [{"kind": "trained"}, {"kind": "gold", "weight": 0.5}]}
    )
    assert recipe_of_seed(made, 1).grpo.rewards == made.grpo.rewards


def test_ppo_asks_for_a_reward_and_has_one_trained() -> None:
    with pytest.raises(TrimtabError, match=r"method 'ppo' needs a reward: ppo\.rewards"):
        recipe("m", methods=["sft", "ppo"], grpo={"rewards": [{"kind": "trained"}]})
    made = recipe("m", methods=["sft", "ppo"], ppo={"rewards": [{"kind": "trained"}]})
    assert made.trains_reward
    assert list(made.rewarded) == ["ppo"]
    assert recipe_of_seed(made, 5).ppo.seed == 5
    assert not recipe("m", methods=["sft"], ppo={"rewards": [{"kind": "trained"}]}).trains_reward


@pytest.mark.parametrize("seeds", [[], [0, -1]])
def test_seeds_that_are_none(seeds: list[int], tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match="at least one training seed"):
        run_study(recipe("m"), tmp_path / "run", seeds)


def begin(out: Path, *seeds: int) -> None:
    for seed in seeds:
        stage = out / f"seed-{seed}" / "stages" / "sft"
        stage.mkdir(parents=True)
        (stage / "metrics.jsonl").touch()


def asked(out: Path, *seeds: int) -> None:
    (out / "environment.json").write_text(json.dumps({"seeds": seeds}))


def test_seeds_belong_to_the_folder(tmp_path: Path) -> None:
    """own: 7. A new folder takes what is asked for; one that has begun keeps its seeds, in their order, new ones
    last; what was only asked for, and never begun, another --seeds may leave out."""
    assert seeds_of(tmp_path / "new", 7, None) == [7]
    assert seeds_of(tmp_path / "new", 7, [2, 0, 2]) == [2, 0]
    begin(tmp_path, 2)
    assert seeds_of(tmp_path, 7, None) == [2]
    asked(tmp_path, 2, 0, 11)  # stopped while seed 2 was trained
    assert seeds_of(tmp_path, 7, None) == [2, 0, 11]
    assert seeds_of(tmp_path, 7, [0, 1]) == [2, 0, 1]
    begin(tmp_path, 0)
    assert seeds_of(tmp_path, 7, [2]) == [2, 0]
    asked(tmp_path, 7)  # by a version that forgot the others
    assert seeds_of(tmp_path, 7, None) == [7, 0, 2]


def files(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_superset_of_seeds_reuses_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seed 0 alone, then 0 and 1 and 2: seed 0 is left as it was, base and opponent are measured once. Only its
    models' cards tell of the pooled results."""
    made, out = recipe(write_model(tmp_path / "model")), tmp_path / "run"
    first = run_study(made, out, [0])
    assert all(e.seeds is None for e in first.methods["sft"].estimates.values())
    kept = files(out / "seed-0")
    found = run_study(made, out, [0, 1, 2])
    cards = {path for path in kept if path.name == "README.md"}
    assert {p: t for p, t in files(out / "seed-0").items() if p not in cards} == {
        p: t for p, t in kept.items() if p not in cards
    }
    assert [p.name for p in sorted((out / "seed-2" / "evaluation").iterdir())] == ["sft"]
    assert json.loads((out / "environment.json").read_text())["seeds"] == [0, 1, 2]
    assert found.provenance.seeds == [0, 1, 2]
    assert {"base", "sft, seed 0", "sft, seed 1", "sft, seed 2"} <= set(found.provenance.hashes)
    assert found.methods["base"] == first.methods["base"]
    assert found.opponent_result == first.opponent_result
    spread = found.methods["sft"].estimates["win_rate"].seeds
    assert spread is not None
    assert list(spread.values) == [0, 1, 2]
    assert spread.values[0] == first.methods["sft"].value("win_rate")
    assert set(found.other_curves) == {1, 2}
    assert not any("training seed:" in w for w in found.warnings)

    # The seeds are the folder's: neither a rerun without them nor one with fewer takes any out of the results.
    for fewer in (None, [0]):
        again = run_study(made, out, fewer)
        assert again.provenance.seeds == [0, 1, 2]
        assert again.verdict == found.verdict
    said = capsys.readouterr().err
    assert "seed 2: sft: 2/2" in said
    assert said.count("holds seed 1, 2 too; the results are of all its seeds, 0, 1, 2.") == 1
    cards = {path for path in kept if path.name == "README.md"}
    assert {p: t for p, t in files(out / "seed-0").items() if p not in cards} == {
        p: t for p, t in kept.items() if p not in cards
    }
