"""Trimtab from Python: nothing is loaded before it is asked for, and it does and says what the commands do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import trimtab
from trimtab.api import nested
from trimtab.command_settings import stage_settings
from trimtab.evaluation.results import Comparison, Results, StageCurves
from trimtab.models.reward_model import RewardModel
from trimtab.rewards.function import FunctionReward, FunctionSettings, source_hash
from trimtab.rewards.settings import reward_given
from trimtab.rewards.settings_base import RewardContext
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data

PAIRS = [{"prompt": f"Name {i}", "chosen": f"It is {i}.", "rejected": "No."} for i in range(8)]
FEW: dict[str, Any] = {"max_steps": 1, "batch_size": 2, "warmup_steps": 0}
SHORT = {"decoding.max_new_tokens": 4}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def lengths(completions: list[str], **columns: Any) -> list[float]:
    """A reward: longer is worse."""
    return [-float(len(text)) for text in completions]


# ---- what is loaded


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    """Not by the import, and not by the command's --version, which imports more."""
    heavy = "print(*{'torch', 'transformers', 'pydantic', 'pandas', 'numpy', 'yaml'} & set(sys.modules))"
    code = (
        "import sys, time; start = time.perf_counter(); import trimtab; spent = time.perf_counter() - start;"
        f"dir(trimtab); {heavy}; print(spent); import trimtab.cli; {heavy}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, seconds, by_the_command = done.stdout.split("\n")[:3]
    assert (loaded, by_the_command) == ("", "")
    assert float(seconds) < 0.1


def test_every_name_is_there_for_programs_and_for_editors() -> None:
    for name in trimtab.__all__:
        assert getattr(trimtab, name) is not None
    assert set(trimtab.__all__) <= set(dir(trimtab))
    assert trimtab.losses.preference.dpo(
        *map(torch.tensor, ([0.5], [0.0], [0.0], [0.0])), beta=2.0
    ).losses.item() == pytest.approx(0.3132617)  # log(1 + e^-1)
    tree = ast.parse(Path(trimtab.__file__).read_text(encoding="utf-8"))
    for_editors = [node for node in tree.body if isinstance(node, ast.If)]
    names = {
        alias.name for node in ast.walk(for_editors[0]) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert names == set(trimtab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        trimtab.trian  # noqa: B018


# ---- settings


def test_no_room_has_the_name_of_a_function() -> None:
    """Whoever imported the room would find it in the function's place."""
    here = Path(trimtab.__file__).parent
    rooms = {name for name in trimtab.__all__ if (here / name).is_dir() or (here / f"{name}.py").exists()}
    assert rooms == {"losses"}  # which is one


def test_settings_by_keyword_and_dotted_are_one() -> None:
    value = nested({"lora.rank": 8, "data.train": Path("a.jsonl")}, {"lora": {"dropout": 0.1}, "betas": (0, 1)})
    assert value == {"lora": {"rank": 8, "dropout": 0.1}, "data": {"train": "a.jsonl"}, "betas": [0, 1]}


@pytest.mark.parametrize(
    ("override", "settings"),
    [
        ("learning_rat=1e-5", {"learning_rat": 1e-5}),
        ("lora.rank=0", {"lora": {"rank": 0}}),
        ("data.max_lenght=5", {"data.max_lenght": 5}),
    ],
)
def test_a_mistake_is_told_in_the_commands_words(override: str, settings: dict[str, Any]) -> None:
    with pytest.raises(trimtab.TrimtabError) as by_command:
        stage_settings("dpo", "pairs.jsonl", None, [override])
    with pytest.raises(trimtab.TrimtabError) as by_call:
        trimtab.train("dpo", model="m", data="pairs.jsonl", out="never", settings=settings)
    assert str(by_call.value) == str(by_command.value)
    assert not Path("never").exists()


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: trimtab.train("dpoo", model="m", data="d", out="o"), "no such method. Did you mean 'dpo'?"),
        (lambda: trimtab.train("dpo", model="m", data={"max_length": 5}, out="o"), "data: name the file"),
        (lambda: trimtab.train("dpo", model="m", data="d", out="o", rewards="gold"), "setting 'rewards'"),
        (lambda: trimtab.train("grpo", model="m", data="d", out="o", rewards=dict), "'dict' is a class"),
        (lambda: trimtab.train("grpo", model="m", data="d", out="o", rewards=5), "is a int, not a function"),
        (lambda: trimtab.evaluate(model="m", data="d", judge="gold"), "--judge and --opponent go together"),
        (lambda: trimtab.evaluate(model="m", data="d", judge="nemotron", opponent="n"), "give a folder as out"),
        (lambda: trimtab.evaluate(model="m", data="d", judge={"kind": "golden"}, opponent="n"), "reward.kind"),
        (lambda: trimtab.compare(["a/best", "b/../a/last"], data="d"), "name each"),
        (lambda: trimtab.compare({"opponent": "m"}, data="d"), "'opponent' is no name for a model"),
        (lambda: trimtab.compare({"a/b": "m"}, data="d"), "'a/b' is no name for a model"),
        (lambda: trimtab.compare([], data="d"), "name at least one"),
        (lambda: trimtab.run_study("quickstrat"), "Did you mean 'quickstart'?"),
        (lambda: trimtab.run_study("quickstart", methods=["sft", "dop"]), "dop"),
    ],
)
def test_dead_ends(call: Callable[[], Any], expected: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(trimtab.TrimtabError, match=re.escape(expected)):
        call()
    assert not list(tmp_path.iterdir())


def test_a_recipe_is_a_file_a_name_or_its_content(tmp_path: Path) -> None:
    changed = trimtab.load_recipe("quickstart", {"dpo.beta": 0.3}, seed=4, grpo={"max_steps": 7})
    usual = trimtab.load_recipe("quickstart")
    assert (changed.dpo.beta, changed.seed, changed.grpo.max_steps) == (0.3, 4, 7)
    assert changed.grpo.rewards == usual.grpo.rewards  # merged, not replaced
    of_content = {"name": "mine", "model": "m", "data": {"train": Path("d.jsonl")}, "methods": ["sft"]}
    assert trimtab.load_recipe(of_content).data.train == "d.jsonl"


# ---- functions as rewards


def test_a_function_is_a_reward_with_its_source_in_its_signature() -> None:
    settings = reward_given(lengths, "rewards")
    made = settings.make(RewardContext({}))
    assert isinstance(made, FunctionReward)
    assert made.score(["p"], ["abc"]) == [-3.0]
    assert made.signature == FunctionReward(lengths).signature
    assert settings.describe().endswith(":lengths")


def test_a_function_typed_at_a_prompt_is_known_by_its_code() -> None:
    def typed(factor: int) -> Any:
        space: dict[str, Any] = {}
        exec(f"def reward(completions):\n    return [{factor} * len(c) for c in completions]", space)
        return space["reward"]

    assert source_hash(typed(1)) == source_hash(typed(1))
    assert source_hash(typed(1)) != source_hash(typed(2))
    with_a_default = partial(lengths, factor=2)
    assert FunctionSettings.of(with_a_default).path == "functools:partial"


# ---- frames


def test_frames() -> None:
    results = Results.model_validate(
        {
            "name": "n",
            "opponent": "other",
            "methods": {
                "sft": {"win_rate": {"ties_half": 0.5, "strict": 0.4, "ties_as_wins": 0.6, "ci95": (0.3, 0.7),
                                     "n": 4, "ties": 1, "missing": 0}, "behaviours": {"empty": 0.25}},
                "dpo": {"perplexity": 3.0},
            },
            "opponent_result": {"perplexity": 2.0},
            "curves": {
                "sft": StageCurves(train=[{"step": 1, "loss": 2.0}], validation=[{"step": 1, "eval_loss": 3.0}]),
            },
            "other_curves": {1: {"sft": StageCurves(train=[{"step": 1, "loss": 5.0}])}},
            "comparisons": [
                Comparison(a="dpo", b="sft", metric="length", difference=-2, ci95=(-3, -1), p_value=0.5),
            ],
        }
    )  # fmt: skip
    frame = results.frame()
    assert list(frame.index) == ["sft", "dpo", "other"]
    assert frame.loc["sft", ["win_rate", "win_rate_low", "win_rate_high", "empty"]].tolist() == [
        0.5,
        0.3,
        0.7,
        0.25,
    ]
    assert frame["perplexity"].tolist()[1:] == [3.0, 2.0]
    assert pd.isna(frame.loc["dpo", "win_rate"])
    row = results.comparison_frame().iloc[0]
    assert (row.a, row.b, row.metric, row.difference, row.low, row.high) == ("dpo", "sft", "length", -2, -3, -1)
    curves = results.curve_frame()
    assert curves[["stage", "seed", "part"]].values.tolist() == [
        ["sft", 0, "train"], ["sft", 0, "validation"], ["sft", 1, "train"],
    ]  # fmt: skip
    assert curves["loss"].tolist()[::2] == [2.0, 5.0]
    empty = Results(name="n")
    assert len(empty.frame()) == len(empty.comparison_frame()) == len(empty.curve_frame()) == 0


# ---- whole calls


def test_train_load_and_go_on(
    tiny_model_dir: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """A function drives GRPO; the same call again returns what is there, and another function is refused."""
    model, rows = tiny_model_dir(), write_jsonl(PAIRS)
    settings = FEW | {"samples": 2, "sampling.max_new_tokens": 4, "data.validation_rows": 2}
    grpo = partial(trimtab.train, "grpo", model=model, data=rows, out=tmp_path / "grpo", settings=settings)
    trained = grpo(rewards=lengths)
    assert trained.folder == tmp_path / "grpo" / "best"
    assert isinstance(trained.metrics, pd.DataFrame)
    assert trained.metrics["step"].max() == trained.done["step"] == 1
    assert next(trained.load().parameters()).dtype == torch.float32
    assert grpo(rewards=lengths) == trained

    def other(completions: list[str]) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(trimtab.TrimtabError, match="holds another run"):
        grpo(rewards=other)
    scored = trimtab.train(
        "reward", model=trained, data={"train": rows, "validation_rows": 2}, out=tmp_path / "rm", **FEW
    )
    assert isinstance(scored.load(), RewardModel)


def test_compare_as_a_study_does(
    tiny_model_dir: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """Every pair over the same prompts; one model alone gives the numbers that it has among several."""
    models = {"first": tiny_model_dir("first", 1), "second": tiny_model_dir("second", 2)}
    asked = {
        "data": write_jsonl(PAIRS),
        "judge": lengths,
        "opponent": tiny_model_dir("third", 3),
        "settings": SHORT,
    }
    results = trimtab.compare(models, out=tmp_path / "both", **asked)
    assert list(results.frame().index) == ["first", "second", str(tmp_path / "third")]
    pairs = results.comparison_frame()
    assert set(zip(pairs.a, pairs.b, strict=True)) == {("second", "first")}
    assert {"win_rate", "judge_score", "length"} <= set(pairs.metric)
    mean = results.frame()["judge_score"]
    difference = pairs.set_index("metric").loc["judge_score", "difference"]
    assert difference == pytest.approx(mean["second"] - mean["first"])
    assert Results.read(tmp_path / "both" / "results.json") == results
    alone = trimtab.evaluate(model=models["second"], **asked)
    assert alone.methods["model"] == results.methods["second"].model_copy(
        update={"win_counts": alone.methods["model"].win_counts}
    )
    assert [p.name for p in tmp_path.iterdir() if "trimtab" in p.name] == []


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/python.md, on a few of the sandbox's rows."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "quickstart" / "data"
    folder.mkdir(parents=True)
    for split, rows in (("train", 40), ("test", 6)):
        write_preferences(preference_data(split, rows, 0), folder / f"{split}.jsonl")
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, Any] = {}
    exec(lines, space)
    assert set(space["results"].methods) == {"sft", "dpo"}
    assert space["results"].judge == "the sandbox's gold judge"
    assert len(space["results"].comparison_frame()) > 3
