"""Every number of every model of settings: what cannot be meant is refused in one line, and what can is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from trimtab.command_settings import seed_count, seeds_named, stage_settings
from trimtab.data.parsing import apply_overrides, parse
from trimtab.data.settings import Settings, plain_types
from trimtab.data.splits import DataSettings
from trimtab.data.yaml_text import read_yaml
from trimtab.errors import TrimtabError
from trimtab.evaluation.settings import Decoding, EvaluationSettings
from trimtab.methods.on_policy_settings import OnPolicySettings
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.methods.sft_settings import SFTSettings
from trimtab.methods.table import METHODS
from trimtab.models.length_encoding import LengthEncoding
from trimtab.models.settings import LoraSettings
from trimtab.recipe import Recipe, StageDefaults, load_recipe
from trimtab.recipe_spaces import RangeSpace
from trimtab.rewards.function import FunctionSettings
from trimtab.rewards.local_settings import ClassifierSettings, LocalRewardSettings, NemotronLocalSettings
from trimtab.rewards.nemotron import NemotronSettings
from trimtab.rewards.remote import RemoteRewardSettings
from trimtab.rewards.settings import CLASSES
from trimtab.rewards.settings_base import NamedRewardSettings, RewardSettings
from trimtab.rewards.vllm_pooling import VLLMPoolingSettings
from trimtab.rollout.sampler import Sampling
from trimtab.tasks.settings import TaskSettings
from trimtab.training.schedule import TrainingSettings

NEEDED: dict[type[Settings], dict[str, Any]] = {
    DataSettings: {"train": "rows.jsonl"},
    LengthEncoding: {"scale": 1.0, "base": 10.0, "target_length": 3},
    Recipe: {"name": "n", "model": "m", "sandbox": {}},
    **{kind: {"kind": name} for name, kind in CLASSES.items()},
    FunctionSettings: {"kind": "function", "path": "a.py:f"},
    ClassifierSettings: {"kind": "classifier", "model": "m"},
    NemotronLocalSettings: {"kind": "nemotron_local", "model": "m"},
    VLLMPoolingSettings: {"kind": "vllm", "model": "m", "base_url": "http://h"},
    LocalRewardSettings: {"kind": "any", "model": "m"},
    **{kind: {"kind": "any"} for kind in (RewardSettings, NamedRewardSettings, RemoteRewardSettings)},
    TaskSettings: {"names": ["gsm8k"]},
    RangeSpace: {"low": 1.0, "high": 2.0},
    TrainingSettings: {"learning_rate": 1e-3},
    OnPolicySettings: {"samples": 2, "kl_coefficient": 0.1},
}
"""What a model of settings cannot do without."""
UNBOUNDED = {
    "max_grad_norm", "explosion", "weight_cap", "clip_high", "value_clip", "scale", "base", "slack",
}  # fmt: skip
"""A large number switches these off, or it is a model's that was trained already."""
NEGATIVE = {"length_penalty", "bound", "low", "high", "start", "weight", "loss_options"}
NEVER = ["", "many", [], {}, [[]], {"a": {}}, "0x10", "1:30", math.inf, -math.inf, math.nan, "nan", ".inf", "1e999"]


def models() -> list[type[Settings]]:
    found, waiting = [], [Settings]
    while waiting:
        waiting += (inner := waiting.pop().__subclasses__())
        own = [one for one in inner if one.__module__.startswith("trimtab") and one.__name__[0] != "_"]
        found += [one for one in own if one is not StageDefaults]  # whose bounds are those of the stages
    return sorted(set(found), key=lambda one: one.__name__)


def fields() -> list[tuple[type[Settings], str]]:
    return [
        (model, name)
        for model in models()
        for name, field in model.model_fields.items()
        if {int, float} & set(plain_types(field.annotation))
    ]


def wrong(model: type[Settings], name: str, value: Any) -> str | None:
    """What is said of a value; None where it is taken."""
    try:
        parse(model, NEEDED.get(model, {}) | {name: value}, "here")
    except TrimtabError as error:
        return str(error)
    return None


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_no_validator_replaces_another(model: type[Settings]) -> None:
    """One of a parent's name would, without a word."""
    for name in [*model.__pydantic_decorators__.field_validators, *model.__pydantic_decorators__.model_validators]:
        places = [parent for parent in model.__mro__ if name in vars(parent)]
        assert len(places) == 1, (name, places)


def test_all_settings_are_walked() -> None:
    known = {one.__name__ for one in models()}
    assert known >= {
        "Recipe",
        "DataSettings",
        "Decoding",
        "LoraSettings",
        "Sampling",
        "VLLMSettings",
        "SFTSettings",
    }
    assert {one.settings.__name__ for one in METHODS.values()} < known
    assert len(fields()) > 150
    others = BaseModel.__subclasses__()
    assert not [one for one in others if one.__module__.startswith("trimtab") and "Settings" in one.__name__[1:]]


@pytest.mark.parametrize(("model", "name"), fields(), ids=lambda one: getattr(one, "__name__", str(one)))
def test_no_number_that_cannot_be_meant(model: type[Settings], name: str) -> None:
    default = model.model_fields[name].get_default(call_default_factory=True)
    values: list[Any] = [*NEVER, True, False, 10**5000, -(10**30)]
    values += [] if name in NEGATIVE else [-1, -1e-9]
    values += [] if name in UNBOUNDED else [10**30, 1e30]
    if isinstance(default, tuple):
        values += [(one, *default[1:]) for one in values]
    if name in ("loss", "loss_options"):
        values = [{"dpo" if name == "loss" else "label_smoothing": one} for one in values]
        values += [True, 1.0, [], [1.0]]
    for value in values:
        said = wrong(model, name, value)
        if said is None:  # Python would not print all of them
            pytest.fail(f"{model.__name__}.{name} takes {value if value != 10**5000 else '10**5000'}")
        assert all(line.startswith(f"here: {name}") and len(line) < 400 for line in said.splitlines()), said
        assert isinstance(default, tuple) or len(said.splitlines()) == 1, said


@pytest.mark.parametrize("value", [1, 0, 2, 1.0, "1", [], {}, "", "maybe"])
def test_no_number_where_a_switch_is(value: Any) -> None:
    switches = [(m, n) for m in models() for n, f in m.model_fields.items() if f.annotation is bool]
    assert len(switches) > 20
    for model, name in switches:
        said = wrong(model, name, value)
        assert said is not None, (model, name)
        assert len(said.splitlines()) == 1
    assert SFTSettings(gradient_checkpointing="yes").gradient_checkpointing  # type: ignore[arg-type]


def test_texts_are_not_empty() -> None:
    for model, name in (
        (Recipe, "model"),
        (DataSettings, "train"),
        (NemotronSettings, "model"),
        (Recipe, "tokenizer"),
    ):
        assert "empty text" in (wrong(model, name, "") or "")
        assert "NUL" in (wrong(model, name, "a\0b") or "")
    assert "empty text" in (wrong(LoraSettings, "targets", ["q_proj", ""]) or "")


def test_seeds_are_torchs() -> None:
    for model in (SFTSettings, Decoding, Recipe):
        for value in (-1, 2**64, 1.5, "-1"):
            assert wrong(model, "seed", value) is not None
        assert wrong(model, "seed", 2**64 - 1) is None
    for text in ("0,1,18446744073709551616", "-1", "0,,1", ""):
        with pytest.raises(TrimtabError, match="expected whole numbers"):
            seeds_named(text)
    assert seeds_named("0,18446744073709551615") == [0, 2**64 - 1]


def test_how_many_seeds_and_which(capfd: pytest.CaptureFixture[str]) -> None:
    """A plan takes either; a study is told which, and says so of a number that may have been meant as how many."""
    assert (seed_count("3"), seed_count("0,1,7"), seed_count("4,4")) == (3, 3, 1)
    for text in ("0", "-1", "three", "", "0,x", "1.5", "٣x"):
        with pytest.raises(TrimtabError, match="--seeds"):
            seed_count(text)
    assert seeds_named("0,1") == [0, 1]
    assert seeds_named("1") == [1]
    assert seeds_named("1337") == [1337]
    assert capfd.readouterr().err == ""
    assert seeds_named("3") == [3]
    assert "one training seed, which is 3; 3 of them are --seeds 0,1,2" in capfd.readouterr().err


def test_numbers_as_yaml_1_1_reads_them() -> None:
    """1e-5 and 1e3 are text to it, 010 is eight and 1:30 is ninety."""
    made, _ = stage_settings(
        "sft", "d.jsonl", None,
        ["learning_rate=1e-5", "batch_size=1e2", "max_steps='2e3'", "seed=010", "epochs=2E0", "accumulation=4.0"],
    )  # fmt: skip
    assert made.learning_rate == 1e-5
    assert (made.batch_size, made.max_steps, made.seed, made.epochs, made.accumulation) == (100, 2000, 10, 2.0, 4)
    assert read_yaml("{a: 0x1F, b: 0b11, c: 1_000, d: -07, e: 1.5e+3, f: 1:30, g: 08, h: 1:30.5}") == {
        "a": 31, "b": 3, "c": 1000, "d": -7, "e": 1500.0, "f": "1:30", "g": "08", "h": "1:30.5",
    }  # fmt: skip
    assert Sampling(temperatures=["1e0", 0.5]).temperatures == (1.0, 0.5)  # type: ignore[arg-type]
    with pytest.raises(TrimtabError, match="batch_size"):
        stage_settings("sft", "d.jsonl", None, ["batch_size=1.5e0"])


@given(st.integers(0, 2**64 - 1))
def test_a_seed_is_read_to_the_last_digit(seed: int) -> None:
    """As text too: no float on the way."""
    assert Decoding(seed=str(seed)).seed == seed  # type: ignore[arg-type]


# ---- lists, and what contradicts


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("methods=[]", "at least one method"),
        ("methods=[sft, sft]", "none twice"),
        ("methods=[sft, spo]", "methods.1: Input should be 'base', 'sft', "),
        ("methods=sft", "methods: Input should be a valid list"),
        ("methods={sft: 1}", "methods: Input should be a valid list"),
        (
            "grpo.rewards=[{kind: nemotrn}]",
            "grpo.rewards.0.kind: Input should be 'function', 'classifier', 'nemotron', 'nemotron_local', 'vllm', "
            "'pairwise', 'jury', 'yes_no', 'instructions', 'ensemble', 'exact_answer', 'gold' or 'trained' "
            "(given: 'nemotrn')",
        ),
        ("grpo.rewards=[{kind: [gold]}]", "grpo.rewards.0.kind: Input should be 'function', "),
        ("grpo.rewards=[{weight: 1}]", "grpo.rewards.0.kind: Field required"),
        ("grpo.rewards=[gold]", "grpo.rewards.0: Input should be settings with a kind, such as {kind: trained}"),
        (
            "grpo.rewards=[{kind: gold, wieght: 2}]",
            "unknown setting 'grpo.rewards.0.wieght'. Did you mean 'weight'",
        ),
        ("grpo.rewards=[{kind: vllm, model: m}]", "grpo.rewards.0: a reward of kind vllm needs base_url"),
        ("grpo.rewards=[{kind: gold, model: m}]", "grpo.rewards.0: a reward of kind gold takes no model"),
        ("grpo.sampling.vllm.max_lenth=3", "'grpo.sampling.vllm.max_lenth'. Did you mean 'max_length'"),
        ("grpo.rewards=[{kind: gold, weight: 0}]", "grpo.rewards.0.weight: a reward of weight 0 has no say"),
        ("grpo.rewards=[{kind: gold}, {kind: gold, weight: 2}]", "the sandbox's gold judge is there twice"),
        ("sft.lora.targets=[]", "sft.lora.targets: "),
        ("sft.lora.targets=[q_proj, v_proj, q_proj]", "sft.lora.targets: 'q_proj' is there twice"),
        ("sft.lora.rank=1e9", "sft.lora.rank: Input should be less than or equal to 65536 (given: 1000000000)"),
        ("grpo.samples=1000000000", "grpo.samples: Input should be less than or equal to 1000000"),
        ("grpo.sampling.temperatures=[]", "grpo.sampling.temperatures: "),
        ("sft.length_penalty.weight=0", "sft.length_penalty.weight: Input should be greater than 0 (given: 0)"),
        ("sft.adam_betas=[0.9]", "sft.adam_betas"),
        ("dpo.loss={dpo: .inf}", "dpo.loss.dpo: Input should be a finite number (given: inf)"),
        ("dpo.loss={dpo: yes}", "dpo.loss: expected a number, not true or false"),
        ("dpo.loss_options={label_smoothing: .nan}", "dpo.loss_options.label_smoothing: Input should be a finite"),
        ("dpo.loss=[]", "dpo.loss: "),
        ("evaluation.token_budget=-5", "evaluation.token_budget: Input should be greater than 0 (given: -5)"),
        (
            "evaluation.decoding.max_new_tokens=1e8",
            "max_new_tokens: Input should be less than or equal to 10000000",
        ),
        ("name=" + "x" * 300 + "/", "x…)"),
    ],
)
def test_one_line_each(override: str, expected: str) -> None:
    with pytest.raises(TrimtabError) as found:
        parse(Recipe, apply_overrides({"name": "n", "model": "m", "sandbox": {}}, [override]), "r.yaml")
    assert expected in str(found.value)
    assert len(str(found.value).splitlines()) == 1


# ---- YAML

COMMON = """
name: x
model: m
data: {train: a.jsonl}
sft: &common {learning_rate: 1e-5, batch_size: 4}
dpo:
  <<: *common
  batch_size: 8
reward: *common
"""


def test_places_that_share_an_alias_are_their_own(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(COMMON)
    made = load_recipe(file, ["reward.learning_rate=5e-7", "dpo.learning_rate=2e-7", "sft.epochs=2"])
    assert (made.sft.learning_rate, made.dpo.learning_rate, made.reward.learning_rate) == (1e-5, 2e-7, 5e-7)
    assert (made.sft.batch_size, made.dpo.batch_size, made.reward.batch_size) == (4, 8, 4)
    assert (made.sft.epochs, made.reward.epochs) == (2, 1)
    shared = read_yaml("a: &a {b: &b [1]}\nc: {<<: *a}\nd: *b\n")
    assert shared["a"]["b"] is not shared["c"]["b"] is not shared["d"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sft: {epochs: 1}\nx: 2\nsft: {epochs: 3}", "'sft' is there twice, on lines 1 and 3"),
        ("sft:\n  epochs: 1\n  'epochs': 2", "'epochs' is there twice, on lines 2 and 3"),
        ("{a: 1, a: 1}", "'a' is there twice, on line 1"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a", "'<<' is there twice, on lines 3 and 4"),
        ("a: &a {b: *a}", "an alias stands inside of what it stands for"),
        ("&a [*a]", "an alias stands inside of what it stands for"),
        ("\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]),
         "more than 100,000 values"),
        ('a: !!int ""', "does not fit its tag"),
        ("a: !!bool maybe", "does not fit its tag"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: [1", "line 1, column 6: "),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: \tb: c", "line 1"),
        ("[" * 5000, "nested too deeply"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as found:
        read_yaml(text)
    assert expected in str(found.value)
    assert len(str(found.value).splitlines()) == 1
    with pytest.raises(TrimtabError, match="not valid YAML"):
        apply_overrides({}, [f"sft={text}"])


def test_one_model_that_merges_may_be_merged_again() -> None:
    """Merging puts keys beside those of the place: they are not there twice."""
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\nd: {<<: [*a, *b], y: 1}"
    assert read_yaml(text) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}, "d": {"x": 1, "y": 1}}


def test_evaluations_own() -> None:
    for value in ({"token_budget": 0}, {"decoding": {"temperature": math.inf}}, {"decoding": {"num_beams": 10**9}}):
        with pytest.raises(TrimtabError, match=f"evaluation: {next(iter(value))}"):
            parse(EvaluationSettings, value, "evaluation")
    assert RewardModelSettings(response_conditioned={}).response_conditioned is not None  # type: ignore[arg-type]
