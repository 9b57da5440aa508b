"""Functions written for TRL, called as TRL calls them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trimtab.data.records import Message
from trimtab.errors import TrimtabError
from trimtab.rewards.base import Scored
from trimtab.rewards.function import FunctionReward, load_function

TALK = (Message("system", "be short"), Message("user", "why?"))


def lengths(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(c)) for c in completions]


def test_trls_own_example_runs_unchanged() -> None:
    """Its documentation's reward on completion_ids, and its built-in penalty, as they stand."""
    rewards = pytest.importorskip("trl.rewards")
    penalty = FunctionReward(rewards.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=4))
    # DAPO, Eq. 13: 0 up to 6 tokens, (6 − n) / 4 up to 10, then −1.
    found = penalty.scored(["p"] * 4, ["x"] * 4, completion_ids=[[1] * n for n in (6, 8, 10, 11)])
    assert [one.score for one in found] == [0.0, -0.5, -1.0, -1.0]


def test_everything_is_passed_by_name_and_in_its_form() -> None:
    calls: list[dict[str, Any]] = []

    def spy(**given: Any) -> list[float]:
        calls.append(given)
        return [float(len(calls) * 10 + i) for i in range(len(given["prompts"]))]

    found = FunctionReward(spy).scored(
        ["plain", TALK, "again"],
        ["one", "two", "three"],
        completion_ids=[(1,), (2, 2), (3,)],
        columns={"answer": ["a", "b", "c"]},
    )
    strings, messages = calls
    assert strings["prompts"] == ["plain", "again"]
    assert strings["completions"] == ["one", "three"]
    assert strings["completion_ids"] == [[1], [3]]
    assert strings["answer"] == ["a", "c"]
    assert strings["trainer_state"] is None
    assert callable(strings["log_extra"])
    assert callable(strings["log_metric"])
    assert messages["prompts"] == [[{"role": "system", "content": "be short"}, {"role": "user", "content": "why?"}]]
    assert messages["completions"] == [[{"role": "assistant", "content": "two"}]]
    assert messages["answer"] == ["b"]
    # Mixed calls are split, and the scores come back in the order asked for.
    assert [one.score for one in found] == [10.0, 20.0, 11.0]


def test_only_what_a_function_names_is_passed() -> None:
    def narrow(completions: list[str], *, answer: list[str], scale: float = 2.0) -> list[float]:
        return [scale * (c == a) for c, a in zip(completions, answer, strict=True)]

    found = FunctionReward(narrow).scored(
        ["p", "p"], ["x", "y"], completion_ids=[[1], [2]], columns={"answer": ["x", "x"], "other": [1, 2]}
    )
    assert [one.score for one in found] == [2.0, 0.0]
    with pytest.raises(TrimtabError, match=r"reward function narrow: needs answer.*Known: completions,"):
        FunctionReward(narrow).score(["p"], ["x"])


def test_numbers_of_any_kind_and_failures_with_reasons() -> None:
    values = [1, 2.5, True, np.float32(0.5), torch.tensor(3.0), None, math.nan, -math.inf]
    found = FunctionReward(lambda completions: values, "odd").scored(["p"] * 8, ["x"] * 8)
    assert [one.score for one in found] == [1.0, 2.5, 1.0, 0.5, 3.0, None, None, None]
    assert [one.reason for one in found[5:]] == ["odd gave None", "odd gave nan", "odd gave -inf"]
    assert FunctionReward(lambda completions: torch.tensor([1.0, -2.0])).score(["p"] * 2, ["x"] * 2) == [1, -2]
    assert FunctionReward(lambda completions: []).scored([], []) == []


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: [1.0], "gave 1 values for 2 completions"),
        (lambda completions: 1.0, "gave float, not a list"),
        (lambda completions: None, "gave NoneType, not a list"),
        (lambda completions: ["1.0x", 2], "gave '1.0x', which is not a number"),
        (lambda completions: [torch.zeros(2)] * 2, "which is not a number"),
        (lambda completions: [1 / 0, 2], "ZeroDivisionError: division by zero"),
        (lambda completions, log_extra: log_extra("part", [1]), r"log_extra\('part'\).*gave 1 values for 2"),
    ],
)
def test_a_function_that_fails_is_named(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(TrimtabError, match=f"reward function mine.*{message}"):
        FunctionReward(function, "mine").scored(["p", "p"], ["x", "y"])


def test_what_is_logged_reaches_the_breakdown_and_the_metrics() -> None:
    def logs(completions: list[str], log_extra: Any, log_metric: Any) -> list[float]:
        log_extra("letters", [len(c) for c in completions])
        log_metric("calls", 1.0)
        log_metric("calls", 2.0)
        return [0.0] * len(completions)

    reward = FunctionReward(logs)
    found = reward.scored(["p", TALK, "p"], ["a", "bb", "ccc"])
    assert found == [Scored(0.0, None, {"letters": n}) for n in (1, 1, 3)]  # a list of one message
    assert reward.take_metrics() == {"calls": 1.5}
    assert reward.take_metrics() == {}


async def slow(completions: list[str], **kwargs: Any) -> list[float]:
    await asyncio.sleep(0)
    return [float(c) for c in completions]


def test_async_functions_are_awaited_inside_and_outside_a_running_loop() -> None:
    class Caller:
        async def __call__(self, completions: list[str]) -> list[float]:
            return await slow(completions)

    async def inside(reward: FunctionReward) -> list[float | None]:
        return reward.score(["p", "p"], ["1", "2"])

    for function in (slow, Caller(), partial(slow, answer=1)):
        reward = FunctionReward(function)
        assert reward.score(["p", "p"], ["1", "2"]) == [1.0, 2.0]
        assert asyncio.run(inside(reward)) == [1.0, 2.0]
    for run in (lambda r: r.score(["p"], ["x"]), lambda r: asyncio.run(fails(r))):
        with pytest.raises(TrimtabError, match="slow: ValueError: could not convert"):
            run(FunctionReward(slow))


async def fails(reward: FunctionReward) -> list[float | None]:
    return reward.score(["p"], ["x"])


def test_the_signature_follows_source_name_and_what_is_closed_over() -> None:
    def shaped(cost: float, least: int = 1) -> Any:
        def reward(completions: list[str], floor: int = least) -> list[float]:
            return [-cost * max(floor, len(c)) for c in completions]

        return reward

    class Held:
        def __init__(self, cost: float) -> None:
            self.cost = cost

        def __call__(self, completions: list[str]) -> list[float]:
            return [self.cost] * len(completions)

    functions = [
        shaped(1.0), shaped(2.0), shaped(1.0, 3), lengths, partial(lengths, scale=1), partial(lengths, scale=2),
        Held(1.0), Held(2.0),
    ]  # fmt: skip
    signatures = [FunctionReward(f, "x").signature for f in functions]
    assert len(set(signatures)) == len(signatures)
    assert FunctionReward(shaped(1.0), "x").signature == signatures[0]
    assert FunctionReward(Held(1.0), "x").signature == signatures[6]
    assert FunctionReward(lengths, "y").signature != signatures[3]
    assert FunctionReward(lengths).name == "lengths"


def test_functions_are_loaded_from_files_and_modules(tmp_path: Path) -> None:
    file = tmp_path / "my rewards.py"
    text = (
        "from dataclasses import dataclass\n@dataclass\nclass Part:\n    x: int = 2\n"
        "def _helper():\n    return Part().x\n"
        "def short(completions, **kwargs):\n    return [-_helper() * len(c) for c in completions]\n"
        "class Group:\n    @staticmethod\n    def one(completions):\n        return [1.0] * len(completions)\n"
        "LIMIT = 3\n"
    )
    file.write_text(text)
    reward = FunctionReward(load_function(f"{file}:short"))
    assert reward.score(["p"], ["abc"]) == [-6]
    assert FunctionReward(load_function(f"{file}:Group.one")).score(["p"], ["abc"]) == [1.0]
    assert load_function("math:sqrt") is math.sqrt
    # A change to what the function calls is a change of the reward.
    file.write_text(text.replace("x: int = 2", "x: int = 33"))
    changed = FunctionReward(load_function(f"{file}:short"))
    assert changed.score(["p"], ["abc"]) == [-99]
    assert changed.signature != reward.signature

    (tmp_path / "broken.py").write_text("import not_there_at_all\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    for spec, message in {
        "short": "path/to/file.py:name",
        f"{file}:": "path/to/file.py:name",
        f"{tmp_path}/none.py:short": "no such file",
        f"{file}:long": "no 'long'. It has: dataclass, Part, short, Group",
        f"{file}:LIMIT": "'LIMIT' is a int, not a function",
        f"{tmp_path}/broken.py:short": "fails: ModuleNotFoundError: No module named 'not_there_at_all'",
        f"{tmp_path}/leaves.py:short": "fails: SystemExit: 3",
        "not_there_at_all:short": "importing not_there_at_all fails: ModuleNotFoundError",
    }.items():
        with pytest.raises(TrimtabError) as caught:
            load_function(spec)
        assert message in str(caught.value)
        assert spec in str(caught.value)
