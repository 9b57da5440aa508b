"""Search spaces in a recipe: where they stand, what they hold, what the first trial takes, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from trimtab.cli import app
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.recipe_spaces import RangeSpace, Space, TuneSettings, read_spaces, spaces_in, tuned_method, with_values


def recipe(**stages: Any) -> JsonObject:
    return {"name": "small", "model": "m", "methods": ["base", "sft", "dpo"], "data": {"train": "x"}, **stages}


def test_ranges_and_choices_stand_where_values_do() -> None:
    value = recipe(
        sft={"learning_rate": 1e-4, "batch_size": {"low": 4, "high": 64, "log": True}},
        dpo={
            "learning_rate": {"low": 1e-7, "high": 1e-5, "log": True},
            "beta": [0.05, 0.1, 0.3],
            "lora": {"rank": [4, 8], "targets": ["q_proj", "v_proj"]},
            "schedule": {"choices": ["linear", "constant"], "start": "constant"},
            "adam_betas": [0.9, 0.99],
            "loss": {"dpo": 1.0},
        },
    )
    found = spaces_in(value, "r.yaml")
    by_path = {space.path: space for space in found}
    assert list(by_path) == [
        "sft.batch_size", "dpo.learning_rate", "dpo.beta", "dpo.lora.rank", "dpo.schedule",
    ]  # fmt: skip
    assert by_path["sft.batch_size"] == Space(
        "sft.batch_size", 16, RangeSpace(low=4, high=64, log=True), (), True
    ), "the setting's default"
    assert by_path["dpo.learning_rate"].start == 5e-6
    [space] = spaces_in(recipe(dpo={"learning_rate": {"low": 1e-8, "high": 1e-6, "log": True}}), "r.yaml")
    assert space.start == pytest.approx(1e-7), "the default is beyond it: the middle, by the logarithm"
    assert by_path["dpo.beta"].start == 0.1
    assert by_path["dpo.lora.rank"].start == 4, "the default is none of the choices"
    assert by_path["dpo.schedule"].start == "constant"
    filled = with_values(value | {"tune": {"trials": 3}}, {"dpo.beta": 0.3, "dpo.lora.rank": 8})
    assert (filled["dpo"]["beta"], filled["dpo"]["lora"]["rank"]) == (0.3, 8)
    assert "tune" not in filled
    assert value["dpo"]["beta"] == [0.05, 0.1, 0.3], "what was read stays as it is"


def test_the_middle() -> None:
    assert RangeSpace(low=2, high=8).middle == 5
    assert RangeSpace(low=2, high=8, log=True).middle == pytest.approx(4)
    assert math.isclose(RangeSpace(low=1e-7, high=1e-5, log=True).middle, 1e-6)


@pytest.mark.parametrize(
    ("dpo", "said"),
    [
        ({"beta": {"low": 3, "high": 1}}, "r.yaml: dpo.beta: low must be less than high"),
        ({"beta": {"low": 0, "high": 1, "log": True}}, "r.yaml: dpo.beta: log: true needs a low above 0"),
        ({"beta": {"low": 0.1, "high": 1, "start": 7}}, "r.yaml: dpo.beta: start must lie between low and high"),
        (
            {"schedule": {"low": 0, "high": 1}},
            "r.yaml: dpo.schedule: a range is for numbers; give choices as a list.",
        ),
        ({"batch_size": {"low": 1.5, "high": 8}}, "takes whole numbers, so low and high must be some"),
        ({"beta": [0.1]}, "r.yaml: dpo.beta: expected two choices or more"),
        ({"beta": [0.1, 0.1]}, "choices must differ"),
        ({"beta": {"choices": [0.1, 0.2], "start": 0.3}}, "start must be one of them"),
        ({"learning_rate": {"low": 1e-3, "high": 1e9}}, "dpo.learning_rate: 1000000000.0 is none that it takes"),
        ({"schedule": ["linear", "wavy"]}, "dpo.schedule: 'wavy' is none that it takes"),
        ({"learning_rate": 1e-6}, "r.yaml: has no search space."),
    ],
)
def test_what_is_no_space(dpo: JsonObject, said: str) -> None:
    with pytest.raises(TrimtabError) as error:
        read_spaces(recipe(dpo={"learning_rate": 1e-6} | dpo), "r.yaml")
    assert said in str(error.value)


def test_whose_answers_are_measured() -> None:
    both = recipe(sft={"learning_rate": [1e-5, 1e-4]}, dpo={"learning_rate": 1e-6, "beta": [0.1, 0.2]})
    settings, spaces = read_spaces(both, "r.yaml")
    assert (settings.trials, settings.objectives) == (24, {"win_rate": "highest"})
    assert tuned_method(settings, spaces, ["base", "sft", "dpo"], "r.yaml") == "dpo"
    assert tuned_method(settings, spaces, ["sft"], "r.yaml") == "sft"
    assert tuned_method(TuneSettings(method="sft"), spaces, ["sft", "dpo"], "r.yaml") == "sft"
    for chosen, methods in ((TuneSettings(method="base"), ["base", "dpo"]), (TuneSettings(), ["grpo"])):
        with pytest.raises(TrimtabError, match=r"r.yaml: tune\.method: name one of the recipe's methods"):
            tuned_method(chosen, spaces, methods, "r.yaml")


def test_a_study_says_what_such_a_recipe_is_for(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(recipe(dpo={"learning_rate": 1e-6, "beta": [0.1, 0.2]}, tune={"trials": 2})))
    ran = CliRunner().invoke(app, ["study", str(file), "--out", str(tmp_path / "run")])
    assert isinstance(ran.exception, TrimtabError)
    assert "`trimtab tune` searches them; a study takes a value, such as --set dpo.beta=0.1." in str(ran.exception)
