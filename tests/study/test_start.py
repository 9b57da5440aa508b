"""What is wrong with a command is told before anything is loaded that takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import trimtab
from trimtab.catalogue import CATALOGUE
from trimtab.losses.table import LOSSES, parameters
from trimtab.methods.table import METHODS
from trimtab.rewards.kinds import KINDS

HEAVY = ("torch", "transformers", "accelerate", "scipy", "matplotlib", "pandas", "datasets", "peft")
PROGRAM = f"""
import sys
from trimtab.cli import main
sys.argv[0] = "trimtab"
try:
    main()
finally:
    print("loaded:", *(name for name in {HEAVY} if name in sys.modules))
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(trimtab.__file__).parents[1])}
STAGE = ("--model", "none", "--data", "none.jsonl", "--out", "out")
COMMANDS = [name for name in METHODS if CATALOGUE[name].summary]
OF_A_METHOD = [
    ("dpo", "beta=-1", "beta: Input should be greater than 0"),
    ("dpo", "loss=dpoo", "unknown loss 'dpoo'"),
    ("dpo", "loss_options.label_smoothing=0.5", "label_smoothing must be at least 0 and below 0.5"),
    ("dpo", "condition.low=99", "low must be below high"),
    ("sft", "length_penalty.estimator=none", "length_penalty.estimator"),
    ("sft", "lora.rank=0", "rank: Input should be greater than 0"),
    ("reward", "response_conditioned.spread=1", "spread: Input should be greater than 1"),
    ("distillation", "sampling.temperatures=[1,2]", "name one temperature"),
    ("online_dpo", "samples=1", "samples: Input should be greater than or equal to 2"),
    ("grpo", "objective=none", "unknown objective 'none'"),
    ("grpo", "precision=fp16", "precision: Input should be"),
    ("ppo", "rewards=[{kind: yes_no, model: m, question: x}]", "say where the completion goes"),
    ("ppo", "sampling.engine=sglang", "sampling.engine: Input should be"),
]


def said_and_loaded(*words: str) -> tuple[str, str]:
    """What the command says, and what it has loaded of HEAVY."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, env=ENVIRONMENT)
    return done.stdout + done.stderr, done.stdout.splitlines()[-1].removeprefix("loaded:").strip()


@pytest.mark.parametrize(
    ("method", "setting", "said"),
    [
        *((name, "learning_rat=1", "Did you mean 'learning_rate'?") for name in COMMANDS),
        *((name, "learning_rate=-1", "learning_rate: Input should be greater than 0") for name in COMMANDS),
        *OF_A_METHOD,
    ],
)
def test_a_wrong_setting_of_a_method_is_told_before_libraries_are_loaded(
    method: str, setting: str, said: str
) -> None:
    text, loaded = said_and_loaded(method.replace("_", "-"), *STAGE, "--set", setting)
    assert said in text
    assert loaded == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--help",), "Align small language models"),
        (("sft", *STAGE, "--set", "data.max_lenght=9"), "unknown setting 'max_lenght'. Did you mean 'max_length'?"),
        (("grpo", *STAGE, "--set", "data.max_length=0"), "max_length: Input should be greater than 1"),
        (("dpo", *STAGE, "--set", "beta"), "expected key=value"),
        (("grpo", *STAGE, "--reward", "nothing"), "reward 'nothing': no such folder, nor a name of a reward"),
        (("grpo", *STAGE, "--reward", "vllm:a"), "write it as vllm:MODEL@http://HOST:PORT"),
        (
            ("evaluate", *STAGE, "--set", "decoding.top_p=2"),
            "decoding.top_p: Input should be less than or equal to 1",
        ),
        (("evaluate", *STAGE, "--judge", "gold"), "--judge and --opponent go together"),
        (("evaluate", *STAGE, "--judge", "gould", "--opponent", "m"), "reward 'gould': no such folder"),
        (("generate", *STAGE, "--set", "decoding.temprature=1"), "Did you mean 'temperature'?"),
        (("generate", *STAGE, "--set", "data.test_rows=9"), "trimtab generate makes no splits"),
        (
            ("generate", *STAGE, "--set", "decoding.top_k=-1"),
            "top_k: Input should be greater than or equal to 0",
        ),
        (("chat", "none", "--temperature", "-1"), "chat: temperature: Input should be greater than or equal to 0"),
        (("chat", "none", "--set", "temprature=1"), "unknown setting 'temprature'. Did you mean 'temperature'?"),
        (("chat", "sandbox:base", "./none"), "model ./none: no such folder"),
        (("compare", "none.jsonl", "b.jsonl"), "none.jsonl: no such file or folder. Give a folder of trimtab"),
        (("compare", "none.jsonl", "--map", "scoer=x"), "--map scoer=x: write NAME=COLUMN"),
        (("compare", "none.jsonl", "--fail-if", "worse"), "--fail-if worse: known are hurt, undecided, helped"),
        (("compare", ".", "--judge", "gould"), "reward 'gould': no such folder"),
        (("audit", "none.jsonl"), "data none.jsonl: no such file"),
        (("audit", "none.jsonl", "--set", "data.max_lenght=9"), "Did you mean 'max_length'?"),
        (("init", "--model", "m", "--data", "none.jsonl"), "data none.jsonl: no such file"),
        (("export", "none", "--out", "out"), "none: neither a stage's folder nor a study's"),
        (("report", "none"), "none: no results.json in it"),
        (("settings", "dpoo"), "no setting 'dpoo' there"),
        (("study", "none.yaml"), "recipe none.yaml: no such file"),
        (("plan", "none.yaml"), "recipe none.yaml: no such file"),
        (("study", "quickstart", "--seeds", "one"), "expected whole numbers"),
        (("study", "quickstart", "--set", "dpo.beta=-1"), "dpo.beta: Input should be greater than 0"),
        (("study", "quickstart", "--set", "evaluation.decoding.top_p=2"), "top_p: Input should be less than"),
        (("plan", "quickstart", "--set", "judge=gould"), "reward 'gould': no such folder, nor a name of a reward"),
        (("plan", "quickstart", "--set", "grpo.rewards=[{kind: golden}]"), "golden"),
        (("plan", "quickstart", "--set", "methods=[base, sff]"), "Input should be 'base'"),
    ],
)
def test_what_is_wrong_is_told_before_libraries_are_loaded(words: tuple[str, ...], said: str) -> None:
    text, loaded = said_and_loaded(*words)
    assert said in text
    assert loaded == ""


@pytest.mark.parametrize("command", [*(name.replace("_", "-") for name in COMMANDS), "generate", "evaluate"])
@pytest.mark.parametrize(
    ("rows", "model", "said"),
    [
        (None, "sandbox:base", "rows.jsonl: no such file"),
        ("", "sandbox:base", "rows.jsonl: the file is empty"),
        ("\n", "sandbox:base", "rows.jsonl: it holds no rows"),
        ("{}", "./nowhere", "model ./nowhere: no such folder"),
        ("{}", "empty", "model empty: no config.json in it, so it is no Hugging Face model folder. It is empty."),
        ("{}", "sandbox:bass", "the sandbox has sandbox:base and sandbox:instruct"),
        ("{}", "unweighted", "model unweighted: it has a config but no weights"),
    ],
)
def test_what_is_not_there_is_told_before_libraries_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, rows: str | None, model: str, said: str
) -> None:
    """And no folder is left behind."""
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "unweighted"):
        Path(folder).mkdir()
    Path("unweighted/config.json").write_text("{}")
    if rows is not None:
        Path("rows.jsonl").write_text(rows)
    text, loaded = said_and_loaded(command, "--model", model, "--data", "rows.jsonl", "--out", "out")
    assert said in text
    assert loaded == ""
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["study", "plan"])
def test_what_a_recipe_names_is_looked_for_before_libraries_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["--set", "sandbox=null"]
    for words, said in (
        (["--set", "model=./nowhere"], "model ./nowhere: no such folder"),
        (["--set", "opponent=./nowhere"], "model ./nowhere: no such folder"),
        (["--set", "judge={kind: yes_no, model: ./nowhere}"], "model ./nowhere: no such folder"),
        (
            [*own, "--set", "judge=null", "--set", "opponent=null", "--set", "data.train=a.jsonl"],
            "a.jsonl: no such",
        ),
    ):
        text, loaded = said_and_loaded(command, "quickstart", *words)
        assert said in text
        assert loaded == ""
    assert not Path("runs").exists()


def test_settings_of_everything_are_read_without_libraries() -> None:
    """Every method's, with every loss; every kind of reward's; a recipe's with all methods."""
    losses = [(name, [option for option in parameters(name)[1] if option != "beta"]) for name in LOSSES]
    program = f"""
import sys
from trimtab.methods.table import METHODS
from trimtab.recipe import Recipe
from trimtab.rewards.settings import CLASSES
for binding in METHODS.values():
    binding.settings.model_validate({{}})
for name, options in {losses}:
    METHODS["dpo"].settings.model_validate({{"loss": name, "loss_options": dict.fromkeys(options, 0.25)}})
rewards = {{"grpo": {{"rewards": [{{"kind": "gold"}}]}}, "ppo": {{"rewards": [{{"kind": "trained"}}]}}}}
rewards["online_dpo"] = {{"rewards": [{{"kind": "yes_no", "model": "a/b"}}]}}
methods = [name for name in METHODS if name not in ("reward", "distillation", "sft_length")]
Recipe.model_validate({{"name": "all", "model": "a/b", "methods": methods, "sandbox": {{}}, **rewards}})
encoded = {{"name": "all", "model": "a/b", "methods": ["sft", "grpo"], "sandbox": {{}}, **rewards}}
Recipe.model_validate({{**encoded, "sft": {{"length_encoding": True}}}})
print(len(CLASSES), *(name for name in {HEAVY} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.split() == [str(len(KINDS))], done.stderr


def test_training_loads_no_library_of_reports() -> None:
    """matplotlib, pandas and scipy.stats are for reports and audits, datasets and peft for those who ask."""
    modules = ("matplotlib", "pandas", "scipy.stats", "datasets", "peft")
    program = f"import sys, trimtab.study.run; print(*(name for name in {modules} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    assert done.stdout.split() == []
