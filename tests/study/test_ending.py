"""What a command that trains one model says at its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from trimtab import cli
from trimtab.training.ending import ending, next_command

PAIRS = [{"prompt": f"Name {i}", "chosen": f"It is {i}.", "rejected": "No."} for i in range(8)]


@pytest.fixture
def train(
    tiny_model_dir: Callable[..., Path],
    write_jsonl: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., tuple[str, str]]:
    """train("sft", …) -> stdout and stderr of one step on seven rows, of which one is empty, and one held out."""
    monkeypatch.chdir(tmp_path)
    model, rows = tiny_model_dir("tiny"), write_jsonl([*PAIRS[:7], PAIRS[7] | {"chosen": " "}], "rows.jsonl")
    assert (model.name, rows.name) == ("tiny", "rows.jsonl")

    def command(method: str, *settings: str) -> tuple[str, str]:
        words = [method, "--model", "tiny", "--data", "rows.jsonl", "--out", "out"]
        every = ("max_steps=1", "batch_size=2", "warmup_steps=0", "data.validation_rows=1", *settings)
        monkeypatch.setattr(sys, "argv", ["trimtab", *words, *(w for s in every for w in ("--set", s))])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
        printed = capsys.readouterr()
        return printed.out, printed.err

    return command


def test_a_model_that_training_made_worse(train: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    """best/ is the start model, and everything says so: the last lines, done.json, the next command."""
    out, err = train("sft", "learning_rate=1.0", "schedule=constant")
    done = json.loads((tmp_path / "out" / "done.json").read_text())
    assert (done["best_step"], done["step"]) == (0, 1)
    assert done["start"] == done["best"]
    warning = done["warnings"][-1]  # after what was said of the tiny model's tokenizer
    assert warning.startswith("no evaluation was better than the model it started from by loss (")
    assert warning.endswith("best/ is that model, and the last weights, of step 1, are in last/")
    start, best, last = (
        load_file(tmp_path / name / "model.safetensors") for name in ("tiny", "out/best", "out/last")
    )
    assert all(best[name].equal(weight) for name, weight in start.items())
    assert not all(last[name].equal(weight) for name, weight in start.items())
    assert out == "Model: out/best\n"
    assert err.count(f"warning: {warning}") == 2  # when it ended, and in the last lines
    *_, kept, rows, following = err.splitlines()
    assert kept.startswith("Kept: step 0 of 1, the best by validation loss: ")
    assert kept.endswith("it is the model that training started from. The last weights are in out/last.")
    assert rows == (
        "Rows: trained on 6 of 7 (1 dropped: empty completion), validated on 1 of 1 (none dropped or cut)."
    )
    assert following == "Next: trimtab evaluate --model out/last --data rows.jsonl --rows 1 --out out-evaluation"


def test_a_model_that_got_better(train: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    out, err = train("sft", "learning_rate=1e-3")
    assert out == "Model: out/best\n"
    assert "no evaluation was better" not in err
    assert not (tmp_path / "out" / "last").exists()
    kept, _, following = err.splitlines()[-3:]
    done = json.loads((tmp_path / "out" / "done.json").read_text())
    assert kept == (
        f"Kept: step 1 of 1, the best by validation loss: {done['best']:.4g}; {done['start']:.4g} at the start."
    )
    assert "--model out/best" in following


def stage(folder: Path, name: str = "sft", **changed: Any) -> Path:
    counts = {"rows": 10, "used": 10, "dropped": {}, "truncated": 3}
    none = counts | {"rows": 0, "used": 0, "truncated": 0}
    sources = {"model": "a model", "tokenizer": "m", "train": "t.jsonl", "validation": None}
    done = {"step": 9, "best_step": 9, "best": 9.0, "best_metric": "loss", "stopped_early": False} | changed
    validated = counts if changed else none
    for file, value in (
        ("done.json", done | {"sources": sources}),
        ("data.json", {"train": counts, "validation": validated, "unreadable": 2}),
        ("stage.json", {"stage": name, "data": {"test_rows": 4}}),
    ):
        (folder / file).write_text(json.dumps(value))
    return folder


def test_what_chose_the_weights(tmp_path: Path) -> None:
    kept, rows, following = ending(stage(tmp_path))
    assert kept == "Kept: the last step, 9: there are no validation rows to choose by."
    assert rows == (
        "Rows: trained on 10 of 10 (3 completions cut at the end), 2 could not be read, those held out for a test "
        "were not used."
    )
    assert "--data held_out.jsonl" in following
    earlier = stage(tmp_path, best_step=6, best=0.25, start=0.5, stopped_early=True)
    assert ending(earlier)[0] == (
        "Kept: step 6 of 9, stopped early, the best by validation loss: 0.25; 0.5 at the start. Without the later "
        "weights: --set best_metric=step --set best_is=highest keeps the last."
    )
    assert ending(stage(tmp_path, best_metric="step"))[0] == "Kept: the last step, 9: best_metric is step."


def test_a_reward_model_is_for_grpo(tmp_path: Path) -> None:
    folder = stage(tmp_path, "reward")
    done, asked = (json.loads((folder / name).read_text()) for name in ("done.json", "stage.json"))
    assert next_command(Path("runs/reward"), done, asked) == (
        "trimtab grpo --model 'a model' --data t.jsonl --reward runs/reward/best --out runs/grpo"
    )
