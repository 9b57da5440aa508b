"""What `trimtab settings` says, docs/settings.md, the help of the methods' commands, and the schema for editors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from study.test_settings import models
from trimtab.catalogue import CATALOGUE, settings_hint
from trimtab.cli import app
from trimtab.errors import TrimtabError
from trimtab.methods.table import METHODS
from trimtab.recipe_files import SHIPPED
from trimtab.recipe_schema import recipe_schema
from trimtab.settings_list import sentence, settings_markdown, settings_table

DOCS = Path(__file__).parents[2] / "docs"


def test_every_setting_has_a_sentence() -> None:
    without = [f"{model.__name__}.{name}" for model in models() for name in model.model_fields]
    assert len(without) > 300
    assert not [
        f"{model.__name__}.{name}"
        for model in models()
        for name in model.model_fields
        if not re.search(r"\w[^.]{3,}\.", sentence(model, name) + ".")
    ]


def test_the_page_is_what_the_source_says() -> None:
    """`trimtab settings --markdown > docs/settings.md`"""
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_markdown()


def row(key: str) -> list[str]:
    (found,) = settings_table(key).rows
    return found


def test_a_setting_in_words() -> None:
    assert row("dpo.beta")[:3] == ["beta", "number > 0", "0.1"]
    assert row("dpo.learning_rate")[2:] == ["5e-06", "The learning rate at its peak, after the warmup."], (
        "inherited"
    )
    assert row("online-dpo.pairing")[1:3] == ["best_worst | best_random", "best_worst"]
    assert row("grpo.sampling.temperatures")[1:3] == ["list of number", "[1.0]"]
    assert row("dpo.lora.dropout")[1] == "number ≥ 0, < 1"
    assert row("dpo.lora.targets")[1] == "all-linear | list of text"
    assert row("dpo.loss")[1] == "text | names with number"
    assert row("data.train")[2] == "required"
    assert row("judge.nemotron.concurrency")[:3] == ["concurrency", "whole number > 0", "16"]
    assert row("defaults.batch_size")[3] == "Completion groups of a batch."
    assert [one[0] for one in settings_table("grpo.rewards").rows][:2] == ["function", "classifier"]
    assert "dpo.lora" in settings_table("dpo").notes[0]
    assert [one[0] for one in settings_table().rows][:3] == ["name", "seed", "model"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("evaluatoin", "settings evaluatoin: no setting 'evaluatoin' there. Did you mean 'evaluation'?"),
        ("dpo.lorra", "settings dpo.lorra: no setting 'lorra' there. Did you mean 'lora'?"),
        ("judge.nemotronn", "Did you mean 'nemotron'?"),
        ("dpo.beta.more", "settings dpo.beta.more: no setting 'more' there."),
    ],
)
def test_places_that_are_not_there(key: str, expected: str) -> None:
    with pytest.raises(TrimtabError) as found:
        settings_table(key)
    assert expected in str(found.value)


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.summary])
def test_a_methods_help_names_settings_that_it_has(name: str) -> None:
    assert len(CATALOGUE[name].most_used) >= 5
    for setting in CATALOGUE[name].most_used:
        first = setting.split(".")[0]
        assert first in METHODS[name].settings.model_fields
        assert settings_table(f"{name}.{setting}").rows
    said = " ".join(CliRunner().invoke(app, [name.replace("_", "-"), "--help"]).output.split())
    assert settings_hint(name) in said
    assert f"`trimtab settings {name}`" in said


def test_the_command() -> None:
    assert "How dear it is to leave" in CliRunner().invoke(app, ["settings", "dpo.beta"]).output
    assert json.loads(CliRunner().invoke(app, ["settings", "--schema"]).output) == recipe_schema()


# ---- the schema


def problems(value: Any, schema: dict[str, Any], whole: dict[str, Any], place: str = "") -> list[str]:
    """What a JSON schema says of a value: as much of JSON schema as ours uses."""
    if "$ref" in schema:
        return problems(value, whole["$defs"][schema["$ref"].rsplit("/", 1)[1]], whole, place)
    if options := schema.get("anyOf") or schema.get("oneOf"):
        tried = [problems(value, option, whole, place) for option in options]
        fitting = sum(not one for one in tried)
        assert fitting < 2 or "anyOf" in schema, place
        return [] if fitting else min(tried, key=len)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    kind = schema.get("type")
    fits = isinstance(value, kinds.get(kind, (int, float))) and (kind == "boolean" or not isinstance(value, bool))
    wrong = [] if kind is None or fits else [f"{place}: {value!r} is no {kind}"]
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        wrong.append(f"{place}: {value!r} is none of the choices")
    if isinstance(value, dict) and kind == "object":
        known = schema.get("properties", {})
        wrong += [f"{place}.{name}: is lacking" for name in schema.get("required", ()) if name not in value]
        for name, inside in value.items():
            rest = schema.get("additionalProperties", True)
            if name in known or isinstance(rest, dict):
                wrong += problems(inside, known.get(name, rest), whole, f"{place}.{name}")
            elif rest is False:
                wrong.append(f"{place}.{name}: is unknown")
    if isinstance(value, list) and kind == "array":
        for i, item in enumerate(value):
            wrong += problems(item, schema.get("items", {}), whole, f"{place}.{i}")
    if isinstance(value, int | float) and not wrong:
        low, over = schema.get("minimum", value), schema.get("exclusiveMinimum")
        if value < low or (over is not None and value <= over) or value > schema.get("maximum", value):
            wrong.append(f"{place}: {value} is out of bounds")
    return wrong


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_fit_the_schema(path: Path) -> None:
    schema = recipe_schema()
    assert problems(yaml.safe_load(path.read_text(encoding="utf-8")), schema, schema) == []


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"dpo": {"betta": 1}}, ".dpo.betta: is unknown"),
        ({"dpo": {"beta": 0}}, ".dpo.beta: 0 is out of bounds"),
        ({"dpo": {"beta": "high"}}, ".dpo.beta: 'high' is no number"),
        ({"defaults": {"lora": {"rnk": 1}}}, ".defaults.lora.rnk: is unknown"),
        ({"methods": ["spo"]}, ".methods.0: 'spo' is none of the choices"),
        ({"grpo": {"rewards": [{"kind": "golden"}]}}, ".grpo.rewards.0.kind: 'golden' is none of the choices"),
    ],
)
def test_what_the_schema_refuses(more: dict[str, Any], expected: str) -> None:
    schema = recipe_schema()
    recipe: dict[str, Any] = {"name": "n", "model": "m", "sandbox": {}, "judge": "gold", "sft": {}}
    recipe["sft"] = {"length_encoding": True, "lora": {"targets": ["q_proj"]}, "adam_betas": [0.9, 0.95]}
    assert problems(recipe, schema, schema) == []
    assert problems(recipe | more, schema, schema) == [expected]


def test_the_schema_says_what_the_page_says() -> None:
    schema = recipe_schema()
    assert schema["$defs"]["DPOSettings"]["properties"]["beta"]["description"].startswith("How dear it is to leave")
    assert schema["properties"]["sft"]["description"].startswith("Supervised fine-tuning")
    texts = [place.get("description") for one in schema["$defs"].values() for place in one["properties"].values()]
    assert len(texts) > 250
    assert all(texts)
