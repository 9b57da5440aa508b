"""A run as its folder shows it: what waits, runs, stands still and is done, and how long the rest takes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from trimtab.cli import app
from trimtab.errors import TrimtabError
from trimtab.watch.page import page
from trimtab.watch.state import Curve, RunState, StageState, look_at
from trimtab.watch.terminal import watch
from trimtab.watch.words import bars, cells, headline

RECIPE = {
    "name": "small",
    "model": "sandbox:base",
    "judge": "gold",
    "opponent": "sandbox:instruct",
    "methods": ["base", "sft", "dpo", "online_dpo"],
    "sandbox": {},
    "online_dpo": {"rounds": 2, "rewards": [{"kind": "gold"}]},
}
NOW = 1_000_000.0


def write(path: Path, text: str, age: float = 5.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (NOW - age, NOW - age))


def rows(*steps: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in steps)


def trained(step: int, **more: object) -> dict[str, object]:
    return {
        "step": step,
        "epoch": step / 10,
        "loss": 1 / step,
        "num_tokens": 100 * step,
        "seconds": 3.0 * step,
        **more,
    }


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """sft is done, dpo at step 8 of 20, the first round stands still, the second waits."""
    out = tmp_path / "run"
    write(out / "recipe.yaml", yaml.safe_dump(RECIPE))
    write(out / "environment.json", json.dumps({"seeds": [3]}))
    stages = out / "seed-3" / "stages"
    for name, settings in (("sft", {"epochs": 1.0}), ("dpo", {"epochs": 2.0}), ("online_dpo-1", {"max_steps": 9})):
        write(stages / name / "stage.json", json.dumps({"settings": settings}))
    write(stages / "sft" / "metrics.jsonl", rows(trained(10)), 900)
    write(stages / "sft" / "done.json", "{}")
    half = '{"step": 9, "lo'
    write(stages / "dpo" / "metrics.jsonl", rows({"step": 0, "eval_loss": 0.7}, trained(4), trained(8)) + half)
    write(stages / "online_dpo-1" / "metrics.jsonl", rows(trained(3)), 400)
    answers = out / "seed-3" / "evaluation" / "sft"
    write(answers / "generations.jsonl", "{}\n{}\n{}\n")
    return out


def test_what_a_studys_folder_says(study: Path) -> None:
    state = look_at(study, NOW)
    assert (state.name, state.finished) == ("run", False)
    found = {stage.title: (stage.state, stage.share, stage.step) for stage in state.stages}
    assert found == {
        "sft": ("done", 1.0, 10),
        "dpo": ("runs", pytest.approx(0.4), 8),
        "online_dpo-1": ("stands still", pytest.approx(1 / 3), 3),
        "online_dpo-2": ("waits", None, 0),
        "answers of sft": ("runs", None, 3),
        "answers of dpo": ("waits", None, 0),
        "answers of online_dpo": ("waits", None, 0),
    }
    dpo = next(stage for stage in state.stages if stage.title == "dpo")
    assert dpo.left == pytest.approx(24 * 0.6 / 0.4)
    assert dpo.last("eval_loss") == 0.7
    assert headline(dpo) == Curve("loss", [(4, 0.25), (8, 0.125)])
    assert cells(dpo)[1:] == ["runs", "40 %", "█▁", "loss 0.125, eval_loss 0.7", "33 tok/s", "36.0 s left"]
    write(study / "seed-3" / "stages" / "online_dpo-1" / ".trimtab.lock", "{}")
    again = {stage.title: stage.state for stage in look_at(study, NOW).stages}
    assert again["online_dpo-1"] == "runs", "whoever holds a folder touches its lock"
    write(study / "results.json", "{}")
    assert look_at(study, NOW).finished


def test_seeds_are_told_apart_and_other_folders_refused(study: Path, tmp_path: Path) -> None:
    (study / "environment.json").write_text(json.dumps({"seeds": [3, 5]}))
    titles = [stage.title for stage in look_at(study, NOW).stages]
    assert titles[:2] == ["seed 3: sft", "seed 3: dpo"]
    assert "seed 5: answers of dpo" in titles
    alone = look_at(study / "seed-3" / "stages" / "dpo", NOW)
    assert [(stage.title, stage.step) for stage in alone.stages] == [("dpo", 8)]
    with pytest.raises(TrimtabError, match="neither a study's folder nor a stage's"):
        look_at(tmp_path)
    (study / "recipe.yaml").write_text("methods: [of_another_version]\n")
    assert "seed 3: dpo" in [stage.title for stage in look_at(study, NOW).stages], "what is there is shown"


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([2.0], "▁"),
        ([1.0, 1.0], "▁▁"),
        ([0.0, 7.0], "▁█"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([3.0] * 24 + [10.0] * 24, "▁" * 12 + "█" * 12),
    ],
)
def test_bars(values: list[float], drawn: str) -> None:
    assert bars(list(enumerate(values))) == drawn


def test_it_looks_until_the_study_is_done(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            write(study / "results.json", "{}")

    shown = tmp_path / "page.html"
    assert watch(study, 0.5, False, shown, sleep).finished
    assert looks == [0.5, 0.5]
    assert "http-equiv" not in shown.read_text(), "a run that is done does not change"
    assert "run: done" in capsys.readouterr().out


def test_the_page_has_all_as_text_and_asks_nobody() -> None:
    curve, evaluated = Curve("loss", [(0, 2.0), (10, 1.0)]), Curve("eval_loss", [(0, 3.0), (10, 1.5)])
    stage = StageState("<b>dpo</b>", "runs", 0.5, 10, 20.0, 400, 20.0, 1.0, [curve, evaluated])
    text = page(RunState('a"<script>', [stage, StageState("grpo", "waits")], False), 2.0)
    assert '<meta http-equiv="refresh" content="2">' in text
    assert "<script>" not in text
    assert "&lt;b&gt;dpo&lt;/b&gt;" in text
    assert not re.search(r"https?://|src=|@import|url\(", text)
    # Values from 1 to 3 over steps 0 to 10, in a frame of 320 × 120: y is turned round.
    assert "<polyline points='0.0,60.0 320.0,120.0'/>" in text
    assert "<g class=\"of-eval\"><polyline points='0.0,0.0 320.0,90.0'/></g>" in text
    assert "http-equiv" not in page(RunState("x", [], True), None)


def test_the_command(study: Path) -> None:
    ran = CliRunner().invoke(app, ["watch", str(study), "--once"], env={"COLUMNS": "160"})
    assert ran.exit_code == 0
    assert "online_dpo-2" in ran.output
    assert "waits" in ran.output
