"""Prompts that a chat template refuses, where they are to be answered: dropped and counted, or named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.data.parsing import parse
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import read_generations
from trimtab.evaluation.results import SplitCounts
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.recipe import Recipe
from trimtab.study.evaluate import evaluate_only, generate_only
from trimtab.study.run import run_study
from trimtab.training.stage import run_stage

FEW = ["decoding.max_new_tokens=2", "decoding.strategy=greedy"]
DROP = [*FEW, "data.bad_rows=drop"]
REFUSAL = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
REASON = "the chat template refuses a conversation (system → user): no system turn"
ANSWERS = {"chosen": "yes", "rejected": "no"}
SYSTEM = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
ROWS: list[dict[str, Any]] = [
    {"prompt": prompt, **ANSWERS} for prompt in ("Name 1", SYSTEM, "Name 2", "<|im_end|> is what?")
]


@pytest.fixture
def takes_all(tiny_model_dir: Callable[..., Path]) -> str:
    return str(tiny_model_dir("all"))


@pytest.fixture
def refusing(tiny_model_dir: Callable[..., Path]) -> str:
    folder = tiny_model_dir("refusing")
    template = folder / "chat_template.jinja"
    template.write_text(REFUSAL + template.read_text())
    return str(folder)


def test_refused_rows_are_named_or_dropped_and_counted(
    refusing: str,
    takes_all: str,
    write_jsonl: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever refuses them, the model or its opponent."""
    rows = str(write_jsonl(ROWS))
    (tmp_path / "words.py").write_text("def words(completions):\n    return [float(len(c)) for c in completions]\n")
    judge = f"{tmp_path / 'words.py'}:words"
    told = rf"rows.jsonl:2: {REASON}. data.bad_rows=drop leaves such rows out.".replace("(", r"\(").replace(
        ")", r"\)"
    )
    with pytest.raises(TrimtabError, match=told):
        evaluate_only(takes_all, rows, tmp_path / "e", refusing, judge, None, FEW)
    with pytest.raises(TrimtabError, match=told):
        generate_only(refusing, rows, tmp_path / "g", None, FEW)
    assert not list(tmp_path.rglob("generations.jsonl"))
    capsys.readouterr()
    found = evaluate_only(takes_all, rows, tmp_path / "e", refusing, judge, None, DROP)
    assert found.data == {"evaluation": SplitCounts(read=4, kept=3, dropped={REASON: 1})}
    assert f"evaluation: 3 of 4 rows used; dropped: 1 × {REASON}\n" in capsys.readouterr().err
    file = generate_only(refusing, rows, tmp_path / "g", None, DROP)
    assert [one.prompt for one in read_generations(file)] == ["Name 1", "Name 2", "<|im_end|> is what?"]
    assert f"generate: 3 of 4 rows used; dropped: 1 × {REASON}\n" in capsys.readouterr().err


def test_rows_with_control_tokens_are_dropped_on_request(
    takes_all: str, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    file = generate_only(
        takes_all, str(write_jsonl(ROWS)), tmp_path / "g", None, [*FEW, "data.control_tokens=drop"]
    )
    assert len(read_generations(file)) == 3


def test_a_prompt_without_room_is_named(
    tiny_model_dir: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    short = str(tiny_model_dir("short", max_position_embeddings=64))
    rows = str(write_jsonl([ROWS[0], {"prompt": "word " * 80, **ANSWERS}]))
    with pytest.raises(
        TrimtabError, match=r"rows.jsonl:2: the prompt has \d+ tokens; with max_new_tokens=2 that is"
    ):
        evaluate_only(short, rows, tmp_path / "e", None, None, None, FEW)


def test_nothing_is_left(refusing: str, write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match="none of the 1 rows can be answered: 1 × the chat template refuses"):
        generate_only(refusing, str(write_jsonl([ROWS[1]])), tmp_path / "g", None, DROP)


def recipe(model: str, data: dict[str, Any]) -> Recipe:
    value = {
        "name": "small",
        "model": model,
        "methods": ["base"],
        "data": data,
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 2}},
    }
    return parse(Recipe, value, "test")


def test_test_rows_of_a_study(refusing: str, write_jsonl: Callable[..., Path], tmp_path: Path) -> None:
    """Found before anything is trained; without test rows the validation rows are asked, and that is still said."""
    data = {"train": str(write_jsonl(ROWS)), "validation": str(write_jsonl(ROWS)), "max_length": 64}
    with pytest.raises(TrimtabError, match=r"test rows: rows.jsonl:2: the chat template refuses"):
        run_study(recipe(refusing, data), tmp_path / "run")
    found = run_study(recipe(refusing, data | {"bad_rows": "drop"}), tmp_path / "run")
    assert found.data["evaluation: test"] == SplitCounts(read=4, kept=3, dropped={REASON: 1})
    assert "Evaluated on the validation rows, which also chose the checkpoints." in found.warnings


def test_a_run_is_not_sampled_with_a_refused_prompt(
    refusing: str, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    rows = str(write_jsonl([ROWS[1], ROWS[0]]))
    data = DataSettings(train=rows, validation=rows, max_length=64, bad_rows="drop")
    settings = DPOSettings(batch_size=1, max_steps=1, sample_interval=1)
    best = run_stage("dpo", DPO, settings, data, refusing, tmp_path / "dpo")
    assert "Name 1" in (best.parent / "samples.jsonl").read_text()
