"""A reward that was mended in the middle of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from training.grpo_runs import weights_of
from trimtab import cli
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.methods.grpo import GRPO
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.rewards.function import FunctionReward, load_function
from trimtab.rollout.sampler import Sampling
from trimtab.training.changed import accepting_changed_reward
from trimtab.training.stage import run_stage

BROKEN = """
calls = 0
def f(completions):
    global calls
    calls += 1
    if calls > 2:
        raise ValueError("a case that nobody thought of")
    return [float(len(c)) for c in completions]
"""
MENDED = "def f(completions): return [float(len(c)) for c in completions]\n"


def test_a_mended_reward_goes_on_where_it_is_asked_to(
    stopping_model: Path, toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "r.py", tmp_path / "out"
    settings: dict[str, Any] = {
        "batch_size": 2, "samples": 2, "sampling": Sampling(max_new_tokens=4), "max_steps": 4, "warmup_steps": 0,
        "checkpoint_interval": 1, "precision": "float32", "logging_interval": 1,
    }  # fmt: skip

    def run(source: str, **more: Any) -> FunctionReward:
        file.write_text(source)
        reward = FunctionReward(load_function(f"{file}:f"))
        rows = DataSettings(train=str(toy_pairs), max_length=200)
        run_stage("grpo", GRPO, GRPOSettings(**settings | more), rows, str(stopping_model), out, reward=reward)
        return reward

    with pytest.raises(TrimtabError, match=r"ValueError: a case that nobody thought of \(r\.py, line 7\)"):
        run(BROKEN)
    old = json.loads((out / "stage.json").read_text())["reward"]
    with pytest.raises(TrimtabError, match=r"its reward differ.*give --accept-changed-reward"):
        run(MENDED)
    with accepting_changed_reward():
        with pytest.raises(TrimtabError, match=r"its settings\.max_steps, reward differ\)[^-]*$"):
            run(MENDED, max_steps=5)  # more than the reward is another run
        new = run(MENDED)
    done, stage = (json.loads((out / name).read_text()) for name in ("done.json", "stage.json"))
    assert (
        done["reward_changes"]
        == stage["reward_changes"]
        == [{"what": "reward", "step": 2, "from": old, "to": new.signature}]
    )
    assert done["step"] == 4
    assert any(line.startswith("the reward was changed at step 2 (--accept") for line in done["warnings"])
    weights = weights_of(out / "best")
    run(MENDED)  # it is done, and needs no flag

    with pytest.raises(TrimtabError, match="give --accept-changed-reward"):
        run(MENDED + "# once more\n")
    with accepting_changed_reward():
        run(MENDED + "# once more\n")
    done = json.loads((out / "done.json").read_text())
    assert [one["step"] for one in done["reward_changes"]] == [2, 4]
    assert done["warnings"][-1].startswith("the reward was changed after this was done")
    assert all(bool((weights_of(out / "best")[name] == value).all()) for name, value in weights.items())


@pytest.mark.parametrize("command", ["grpo", "ppo", "online-dpo", "study"])
def test_the_command_passes_it_on(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trimtab.study import run as study
    from trimtab.training import changed

    seen = []

    def ran(*_: Any, **__: Any) -> None:
        seen.append(changed._accepting.get())
        raise TrimtabError("seen")

    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x\nmodel: sandbox:base\nsandbox: {}\nmethods: [base]\n")
    words = [recipe] if command == "study" else ["--model", "m", "--data", "d", "--out", "o", "--reward", "gold"]
    with mock.patch.object(study, "run_alone", ran), mock.patch.object(study, "run_study", ran):
        for flag in ([], ["--accept-changed-reward"]):
            monkeypatch.setattr(sys, "argv", ["trimtab", command, *map(str, words), *flag])
            with pytest.raises(SystemExit):
                cli.main()
    assert seen == [False, True]
