"""What a recipe may say, and how it is told what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab.command_settings import stage_settings
from trimtab.data.parsing import apply_overrides, parse
from trimtab.data.splits import Splits
from trimtab.errors import TrimtabError
from trimtab.methods.sft_settings import LengthEncodingSettings
from trimtab.models.settings import LoraSettings
from trimtab.recipe import Recipe, load_recipe
from trimtab.recipe_files import SHIPPED
from trimtab.study.collect import _study_warnings
from trimtab.study.seeds import recipe_of_seed

SANDBOX = {"name": "toy", "model": "sandbox:base", "sandbox": {"train_rows": 10}}
OWN = {"name": "own", "model": "org/model", "data": {"train": "rows.jsonl"}}
RECIPES = sorted(SHIPPED.glob("*.yaml"))


def recipe(value: dict[str, Any], *overrides: str) -> Recipe:
    return parse(Recipe, apply_overrides(yaml.safe_load(yaml.safe_dump(value)), overrides), "r.yaml")


def message(value: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(TrimtabError) as found:
        recipe(value, *overrides)
    return str(found.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_that_are_shipped(path: Path) -> None:
    """Each is valid, and what is written to a study's folder reads back as the same recipe."""
    loaded = load_recipe(path)
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(loaded.model_dump()))) == loaded


# ---- overrides


def test_overrides_are_yaml() -> None:
    """1e-4 is text to YAML, which wants 1.0e-4; the settings read it as the number that is meant."""
    made = recipe(
        SANDBOX,
        "sft.learning_rate=1e-4",
        "dpo.beta=0.2",
        "dpo.batch_size=8",
        "methods=[base, sft]",
        "sandbox.max_length=128",
        "sft.adam_betas=[0.9, 0.95]",
        "sft.patience=null",
        "evaluation.decoding.temperature=1",
    )
    assert made.sft.learning_rate == 1e-4
    assert (made.dpo.beta, made.dpo.batch_size) == (0.2, 8)
    assert made.methods == ["base", "sft"]
    assert made.sandbox is not None
    assert (made.sandbox.max_length, made.sandbox.train_rows) == (128, 10)
    assert made.sft.adam_betas == (0.9, 0.95)
    assert made.sft.patience is None
    assert made.evaluation.decoding.temperature == 1.0


def test_the_last_override_counts() -> None:
    assert recipe(SANDBOX, "sft.epochs=2", "sft.epochs=3").sft.epochs == 3


def test_value_may_hold_an_equals_sign() -> None:
    assert apply_overrides({}, ["data.train=a=b.jsonl"]) == {"data": {"train": "a=b.jsonl"}}


def test_section_that_is_empty_in_the_file() -> None:
    """`sft:` with nothing below it is null to YAML."""
    assert apply_overrides({"sft": None}, ["sft.epochs=2"]) == {"sft": {"epochs": 2}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sft.epochs", "expected key=value, such as sft.learning_rate=1e-4"),
        ("=3", "expected key=value"),
        ("name.first=3", "'name' is a value, and has no settings inside"),
        ("sft.epochs=[1", "the value is not valid YAML"),
        ("name=2024-13-01", "the value is not valid YAML: month must be in 1..12"),
    ],
)
def test_overrides_that_cannot_be_read(override: str, expected: str) -> None:
    found = message(SANDBOX, override)
    assert found.startswith(f"--set {override!r}: ")
    assert expected in found


# ---- unknown and wrong settings


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sft.learning_rat=1e-4", "unknown setting 'sft.learning_rat'. Did you mean 'learning_rate'?"),
        ("sandbx={}", "unknown setting 'sandbx'. Did you mean 'sandbox'?"),
        ("evaluation.decoding.temprature=1", "'evaluation.decoding.temprature'. Did you mean 'temperature'?"),
        ("sandbox.trainrows=1", "unknown setting 'sandbox.trainrows'. Did you mean 'train_rows'?"),
        ("dpo.zzz=1", "unknown setting 'dpo.zzz'. Known: accumulation, adam_betas,"),
        ("dpo.loss=dppo", "dpo.loss: unknown loss 'dppo'; known: dpo"),
        ("methods=[base, sfft]", "methods.1: "),
        ("methods=[sft, sft]", "'methods' must name at least one method, and none twice"),
        ("methods=[]", "'methods' must name at least one method"),
        ("sft.learning_rate=0", "sft.learning_rate: Input should be greater than 0 (given: 0)"),
        ("sft.batch_size=many", "sft.batch_size: Input should be a valid integer"),
        ("sft=3", "sft: Input should be"),
        ("name=a/b", "name: String should match pattern"),
    ],
)
def test_settings_that_are_wrong(override: str, expected: str) -> None:
    found = message(SANDBOX, override)
    assert expected in found
    assert found.startswith("r.yaml: ")


def test_everything_wrong_is_said_at_once() -> None:
    found = message(SANDBOX, "dpo.beta=-1", "sft.epoch=2")
    assert found.splitlines() == [
        "r.yaml: unknown setting 'sft.epoch'. Did you mean 'epochs'?",
        "r.yaml: dpo.beta: Input should be greater than 0 (given: -1)",
    ]


def test_what_must_go_together() -> None:
    both = {"judge": "gold", "opponent": "sandbox:instruct"}
    judge = recipe(SANDBOX | both).judge
    assert judge is not None
    assert judge.kind == "gold"
    for one in both:
        assert "'judge' and 'opponent' go together" in message(SANDBOX | {one: both[one]})
    assert "judge 'gold' knows the sandbox's world only" in message(OWN | both)
    assert "give either 'data' (your own) or 'sandbox'" in message(SANDBOX | OWN)
    assert "give either 'data' (your own) or 'sandbox'" in message({"name": "n", "model": "m"})
    assert "best_metric and best_is (highest or lowest) go together" in message(SANDBOX, "sft.best_metric=loss")
    assert "model: Field required" in message({"name": "n", "sandbox": {}})


def test_who_goes_with_a_length_encoding() -> None:
    """`true` stands for the defaults; DPO, the penalty and vLLM do not count down, and GRPO does."""
    count = "sft.length_encoding=true"
    made = recipe(SANDBOX, count, "methods=[base, sft]")
    assert made.sft.length_encoding == LengthEncodingSettings()
    assert recipe(SANDBOX, "sft.length_encoding=false").sft.length_encoding is None
    for known, said in ((made, True), (recipe(SANDBOX, "methods=[base, sft]"), False)):
        warnings = _study_warnings(known, Splits([], [], []), [])
        assert any("length encoding" in one for one in warnings) == said
    assert "method 'dpo' cannot go on" in message(SANDBOX, count)
    assert "exclude each other" in message(SANDBOX, count, "sft.length_penalty={}", "methods=[sft]")
    assert "'sft_length' is SFT with the length penalty" in message(SANDBOX, count, "methods=[sft, sft_length]")
    assert (
        recipe(SANDBOX, count, "methods=[sft, sft_length]", "sft_length.epochs=1")
        .settings_of("sft_length")
        .length_penalty
    )
    by_vllm = message(SANDBOX, count, "methods=[sft]", "evaluation.decoding.engine=vllm")
    assert "needs engine transformers" in by_vllm
    assert "Did you mean 'strength'?" in message(SANDBOX, "sft.length_encoding.strenth=2")
    judged = ["methods=[sft, grpo]", "grpo.rewards=[{kind: gold}]"]
    assert recipe(SANDBOX, count, *judged).sft.length_encoding is not None
    assert "needs engine transformers" in message(SANDBOX, count, *judged, "grpo.sampling.engine=vllm")


def test_stages_follow_the_recipes_seed() -> None:
    """Unless they set their own; and one recipe's seed is no other's."""
    made = recipe(SANDBOX, "seed=7", "dpo.seed=3")
    assert (made.sft.seed, made.dpo.seed) == (7, 3)
    assert recipe(SANDBOX, "seed=8", "sft.epochs=2").sft.seed == 8
    assert recipe(SANDBOX).sft.seed == 0


# ---- what is said once


TRAINED = {"methods": ["base", "sft", "dpo", "grpo"], "grpo": {"rewards": [{"kind": "trained"}]}}


def test_defaults_are_under_every_stage_that_runs() -> None:
    """Where the stage has such a setting; its own wins, groups are merged by their keys. Others keep theirs."""
    made = recipe(
        SANDBOX | TRAINED | {"sft": {"epochs": 3, "lora": {"alpha": 5}}},
        "defaults={batch_size: 4, epochs: 2, lora: {rank: 8}, beta: 0.3, sampling: {max_new_tokens: 9}}",
        "grpo.batch_size=2", "grpo.sampling.batch_size=3", "dpo.lora=null", "defaults.warmup_steps=1",
    )  # fmt: skip
    assert [one.batch_size for one in (made.sft, made.dpo, made.reward, made.grpo)] == [4, 4, 4, 2]
    assert [one.epochs for one in (made.sft, made.dpo, made.reward)] == [3, 2, 2]
    assert made.sft.warmup_steps == made.grpo.warmup_steps == 1
    assert made.sft.lora == LoraSettings(rank=8, alpha=5)
    assert made.dpo.lora is None
    assert made.reward.lora == LoraSettings(rank=8)
    assert (made.dpo.beta, made.online_dpo.beta) == (0.3, 0.1)
    assert (made.grpo.sampling.max_new_tokens, made.grpo.sampling.batch_size) == (9, 3)
    usual = recipe(SANDBOX)
    assert (made.ppo, made.online_dpo, made.evaluation) == (usual.ppo, usual.online_dpo, usual.evaluation)
    assert "defaults" not in made.model_dump()
    assert Recipe.model_validate(made.model_dump()) == made
    gold = {"grpo": {"rewards": [{"kind": "gold"}]}}
    assert recipe(SANDBOX | TRAINED | gold, "defaults.batch_size=4").reward == usual.reward, "it is not trained"
    each = recipe(SANDBOX | {"methods": ["sft", "grpo", "ppo"]}, "defaults.rewards=[{kind: gold}]")
    assert [one.rewards[0].kind for one in each.rewarded.values()] == ["gold", "gold"]
    weights = recipe(SANDBOX | {"dpo": {"loss": {"ipo": 1}}}, "defaults={loss: {dpo: 1, sft: 1}}")
    assert weights.dpo.loss == {"ipo": 1.0}, "a value, no group of settings"


def test_defaults_are_under_stages_that_run_for_others() -> None:
    """The reward model of a second judge or in an ensemble, what it starts from, and what that starts from."""
    plain = SANDBOX | {"methods": ["base", "dpo"], "starts_from": {"dpo": "base"}, "defaults": {"batch_size": 4}}
    usual = recipe(SANDBOX).sft.batch_size
    made = recipe(plain)
    assert [made.dpo.batch_size, made.reward.batch_size, made.sft.batch_size] == [4, usual, usual]
    judged = recipe(plain | {"second_judges": [{"kind": "trained"}], "opponent": "sandbox:base", "judge": "gold"})
    assert [judged.dpo.batch_size, judged.reward.batch_size, judged.sft.batch_size] == [4, 4, 4]
    several = {"kind": "ensemble", "members": ["trained", "gold"]}
    driven = recipe(plain | {"methods": ["grpo"], "grpo": {"rewards": [several]}})
    assert driven.reward.batch_size == 4


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("defaults.batchsize=3", "r.yaml: unknown setting 'defaults.batchsize'. Did you mean 'batch_size'?"),
        ("defaults.lora.rnk=3", "r.yaml: unknown setting 'defaults.lora.rnk'. Did you mean 'rank'?"),
        ("defualts.batch_size=3", "r.yaml: unknown setting 'defualts'. Did you mean 'defaults'?"),
        ("defaults.batch_size=0", "r.yaml: defaults.batch_size: Input should be greater than 0 (given: 0)"),
        ("defaults.gamma=high", "r.yaml: defaults.gamma: Input should be a valid number"),
        ("defaults=3", "r.yaml: defaults: Input should be a valid dictionary"),
        ("defaults.samples=1", "r.yaml: grpo.samples: Input should be greater than or equal to 2 (given: 1)"),
    ],
)
def test_defaults_that_are_wrong(override: str, expected: str) -> None:
    found = message(SANDBOX | TRAINED, override)
    assert found.startswith(expected)
    assert len(found.splitlines()) == 1


def test_sft_length_has_what_sft_sets() -> None:
    """And its own above it, over the defaults; not the length encoding, which excludes the penalty."""
    value = SANDBOX | {"methods": ["sft", "sft_length"], "defaults": {"epochs": 5, "patience": 7}}
    value |= {"sft": {"learning_rate": 1e-3, "lora": {"rank": 4}, "epochs": 3, "length_encoding": True}}
    value |= {"sft_length": {"lora": {"alpha": 2}, "length_penalty": {"weight": 0.5}}}
    made = recipe(value).settings_of("sft_length")
    assert (made.learning_rate, made.epochs, made.patience) == (1e-3, 3, 7)
    assert made.lora == LoraSettings(rank=4, alpha=2)
    assert made.length_encoding is None
    assert made.length_penalty is not None
    assert made.length_penalty.weight == 0.5
    own = recipe(value, "sft_length.epochs=1", "sft_length.lora=null").settings_of("sft_length")
    assert (own.epochs, own.lora, own.learning_rate) == (1, None, 1e-3)
    without = recipe({**value, "sft_length": None, "sft": {"epochs": 3}})
    assert without.sft_length is None
    assert without.settings_of("sft_length").patience == 7


def test_a_seed_of_its_own_follows_no_other() -> None:
    """What sft_length is given is not taken for sft's when a study runs with other seeds."""
    value = SANDBOX | {"methods": ["sft", "sft_length"], "sft": {"seed": 16}, "sft_length": {"seed": 0}}
    made = recipe_of_seed(recipe(value), 3)
    assert (made.sft.seed, made.settings_of("sft_length").seed) == (16, 3)


# ---- files


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: [a", "not valid YAML"),
        (b"name: caf\xe9", "not valid YAML"),
        (b"when: 2024-13-01", "not valid YAML: month must be in 1..12"),
        (b"", "expected settings with names, found NoneType"),
        (b"- name", "expected settings with names, found list"),
    ],
)
def test_files_that_are_no_recipe(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(TrimtabError, match=expected) as found:
        load_recipe(path)
    assert str(found.value).startswith(f"recipe {path}: ")
    with pytest.raises(
        TrimtabError, match=r"no such file\. These come with trimtab, by their names alone: distillation, quick"
    ):
        load_recipe(tmp_path / "absent.yaml")


# ---- one stage by itself


def test_settings_of_one_stage() -> None:
    """Plain names are the method's, `data.` is the data's; there is no recipe whose seed they follow."""
    training, data = stage_settings("dpo", "t.jsonl", "v.jsonl", ["beta=0.3", "data.max_length=99", "seed=5"])
    assert (training.beta, training.seed) == (0.3, 5)  # type: ignore[union-attr]
    assert (data.train, data.validation, data.max_length) == ("t.jsonl", "v.jsonl", 99)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("betta=1", "--set (dpo): unknown setting 'betta'. Did you mean 'beta'?"),
        ("data.max_len=1", "--set (data): unknown setting 'max_len'. Did you mean 'max_length'?"),
        ("data=other.jsonl", "--set data=other.jsonl: data has settings inside"),
    ],
)
def test_settings_of_one_stage_that_are_wrong(override: str, expected: str) -> None:
    with pytest.raises(TrimtabError) as found:
        stage_settings("dpo", "t.jsonl", None, [override])
    assert expected in str(found.value)
