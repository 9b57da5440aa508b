"""Functions that people write and that go wrong: the right scores or one line, and nothing left behind."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rewards.odd_functions import COLUMN, ODD
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import Score
from trimtab.rewards import apart
from trimtab.rewards.base import Scored
from trimtab.rewards.function import FunctionReward, load_function
from trimtab.training.metrics import _line


def made(folder: Path, source: str) -> FunctionReward:
    (folder / "r.py").write_text(source + "\n")
    return FunctionReward(load_function(f"{folder / 'r.py'}:f"))


def asked(reward: FunctionReward, texts: tuple[str, ...] = ("a", "bb", "ccc")) -> list[Scored]:
    tags = [list(COLUMN) for _ in texts]
    found = reward.scored(["p"] * len(texts), texts, completion_ids=[[1]] * len(texts), columns={"tags": tags})
    assert tags == [COLUMN] * len(texts), "the data's own rows are changed"
    return found


def process_state() -> Any:
    """What a function could change for everybody."""
    modes = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return os.getcwd(), modes, torch.are_deterministic_algorithms_enabled(), generators


@pytest.mark.parametrize("name", ODD)
def test_an_odd_function_gives_the_right_scores_or_one_line(name: str, tmp_path: Path) -> None:
    source, expected = ODD[name]
    before, started = process_state(), time.monotonic()
    if isinstance(expected, str):
        with pytest.raises(TrimtabError) as caught:
            asked(made(tmp_path, source))
        message = str(caught.value)
        assert expected in message
        assert message.startswith("reward function ")
        assert len(message) < 600
        assert "\n" not in message
    else:
        found = asked(made(tmp_path, source))
        assert [one.score for one in found] == expected
        assert all(one.reason for one in found if one.score is None)
        for one in found:  # the files that they are written to
            json.loads(_line(dict(one.breakdown)), parse_constant=pytest.fail)
            Score(id="0", score=one.score, breakdown=dict(one.breakdown)).model_dump_json()
    assert process_state() == before
    assert time.monotonic() - started < 10


def test_ctrl_c_inside_a_reward_is_a_stop_and_no_error_of_the_reward(tmp_path: Path) -> None:
    for kind in ("def", "async def"):
        with pytest.raises(KeyboardInterrupt):
            asked(made(tmp_path, f"{kind} f(completions): raise KeyboardInterrupt"))


def test_what_a_function_draws_follows_from_the_texts_alone(tmp_path: Path) -> None:
    """Other texts, other numbers; the same texts, the same, whatever was drawn in between: a run that goes on
    scores as one that was never stopped."""
    source = (
        "import random, numpy as np, torch\n"
        "def one(): return random.random() + np.random.rand() + float(torch.rand(()))\n"
        "def f(completions): return [one() for _ in completions]"
    )
    reward = made(tmp_path, source)
    first = [one.score for one in asked(reward)]
    other = [one.score for one in asked(reward, ("d", "e", "f"))]
    torch.rand(3)
    random.random()
    assert [one.score for one in asked(reward)] == first
    assert len({*first, *other}) == 6


def test_what_is_logged_is_json_in_the_order_of_the_completions(tmp_path: Path) -> None:
    source = (
        "import numpy as np\ndef f(completions, log_extra, log_metric):\n"
        "    log_extra('n', np.array([1, 2, 3]))\n    log_extra('odd', [float('inf'), [1, {'k': (2,)}], 10**400])\n"
        "    for m in (float('nan'), np.float32(2), 4): log_metric('m', m)\n    return [1.0] * 3"
    )
    reward = made(tmp_path, source)
    found = [dict(one.breakdown) for one in asked(reward)]
    assert [one["n"] for one in found] == [1, 2, 3]
    assert [one["odd"] for one in found[:2]] == [None, [1, {"k": [2]}]]
    assert str(found[2]["odd"]).startswith("1000")
    assert reward.take_metrics() == {"m": 3.0}


def test_a_function_that_hangs_is_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SLOW", 0.05)
    said: list[str] = []
    monkeypatch.setattr(apart.console, "print", said.append)
    asked(made(tmp_path, "import time\ndef f(completions):\n    time.sleep(0.3)\n    return [1.0] * 3"))
    assert said == ["reward function f: has been running for 0.05 s; Ctrl-C stops the run."]
