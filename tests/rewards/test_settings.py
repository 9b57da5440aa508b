"""Recipes' rewards: what is accepted, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from conftest import byte_tokenizer
from rewards.toy import qwen, reward_settings, write
from trimtab.errors import TrimtabError
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.nemotron import NemotronReward
from trimtab.rewards.settings import make_reward
from trimtab.rewards.vllm_pooling import VLLMPoolingReward
from trimtab.rewards.weighted import WeightedReward


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "nemotrn"},
            "'nemotron_local', 'vllm', 'pairwise', 'jury', 'yes_no', 'instructions', 'ensemble', 'exact_answer', "
            "'gold', 'trained'",
        ),
        ({"kind": "vllm", "model": "m"}, "kind vllm needs base_url"),
        ({"kind": "vllm"}, "kind vllm needs base_url and model"),
        ({"kind": "nemotron_local"}, "kind nemotron_local needs model"),
        ({"kind": "classifier", "model": "m", "concurrency": 2}, "kind classifier takes no concurrency"),
        ({"kind": "vllm", "base_url": "http://h", "model": "m", "attribute": "a"}, "takes no attribute"),
        ({"kind": "nemotron", "base_url": "h:1"}, "base_url is no address"),
        ({"kind": "nemotron", "timeout": 0}, "greater than 0"),
        ({"kind": "function"}, "kind function needs path"),
        ({"kind": "classifier"}, "kind classifier needs model"),
        ({"kind": "gold", "model": "x"}, "kind gold takes no model"),
        ({"kind": "function", "path": "a:b", "token_budget": 3}, "takes no token_budget"),
        ({"kind": "gold", "wieght": 2}, "Extra inputs"),
        ({"kind": "gold", "weight": float("inf")}, "finite"),
    ],
)
def test_settings_that_mean_nothing_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        reward_settings(**settings)


def test_rewards_are_made_and_weighed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def length(completions):\n    return [len(c) for c in completions]\n")
    folder = write(tmp_path / "classifier", qwen(), byte_tokenizer())
    function = reward_settings(kind="function", path=f"{tmp_path}/mine.py:length")
    alone = make_reward([function], {})
    assert isinstance(alone, FunctionReward)
    gold = FunctionReward(lambda completions: [5.0] * len(completions), "gold")
    assert make_reward([reward_settings(kind="gold")], {"gold": gold}) is gold
    halved = make_reward([reward_settings(kind="gold", weight=0.5)], {"gold": gold})
    assert halved.score(["p"], ["x"]) == [2.5]
    both = make_reward(
        [
            function.model_copy(update={"weight": -1.0, "name": "letters"}),
            reward_settings(kind="classifier", model=str(folder), weight=3.0),
            reward_settings(kind="gold"),
        ],
        {"gold": gold},
    )
    assert isinstance(both, WeightedReward)
    classifier = both.parts[1][0]
    assert isinstance(classifier, ClassifierReward)
    (score,) = classifier.score(["the cat"], ["sat"])
    (found,) = both.scored(["the cat"], ["sat"])
    assert score is not None
    assert found.score == pytest.approx(-3 + 3 * score + 5)
    assert found.breakdown == {"letters": 3.0, "classifier": score, "gold": 5.0}


def test_rewards_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    """Of trimtab's own every one is called best. A name that only one has stays what it was; the same twice, and
    names that were given, are still refused."""
    folders = [write(tmp_path / f"{name}/best", qwen(), byte_tokenizer()) for name in ("r1", "r2", "x/r3", "y/r3")]
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("def best(completions):\n    return [0.0 for _ in completions]\n")
    asked = [reward_settings(kind="classifier", model=str(folder)) for folder in folders]
    functions = [reward_settings(kind="function", path=f"{tmp_path}/{name}.py:best") for name in ("a", "b")]
    for order in (1, -1):
        made = make_reward([*asked, *functions][::order], {})
        assert isinstance(made, WeightedReward)
        names = ["r1/best", "r2/best", "x/r3/best", "y/r3/best", "a/best", "b/best"]
        assert [reward.name for reward, _ in made.parts] == names[::order]
    assert make_reward(asked[:1], {}).name == "best"
    with pytest.raises(TrimtabError, match="a name of its own"):
        make_reward([asked[0], asked[0]], {})
    with pytest.raises(TrimtabError, match="a name of its own"):
        make_reward([one.model_copy(update={"name": "same"}) for one in asked[:2]], {})


def test_remote_rewards_take_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's cache where they name none, their own where they do; two of them are told apart by name."""
    monkeypatch.setenv("MY_KEY", "k-1")
    asking: dict[str, Any] = {"concurrency": 3, "timeout": 5.0, "retries": 1, "longest_wait": 7.0}
    at = {"base_url": "http://h:1/v1", "api_key_variable": "MY_KEY"}
    vllm = reward_settings(kind="vllm", model="rm", cache=str(tmp_path / "shared.sqlite"), **at, **asking)
    nemotron = reward_settings(kind="nemotron", attribute="coherence", name="mine", **at)
    both = make_reward([vllm, nemotron], {}, tmp_path / "scores.sqlite")
    assert isinstance(both, WeightedReward)
    first, second = (part for part, _ in both.parts)
    assert isinstance(first, VLLMPoolingReward)
    assert isinstance(second, NemotronReward)
    assert (first.name, first.endpoint.url, first.model) == ("rm", "http://h:1", "rm")
    assert {name: getattr(first.endpoint, name) for name in asking} == asking
    assert (second.name, second.endpoint.url, second.attribute) == ("mine", "http://h:1/v1", "coherence")
    assert [one.cache and one.cache.path.name for one in (first, second)] == ["shared.sqlite", "scores.sqlite"]
    assert all(one.endpoint.key and one.endpoint.key.get_secret_value() == "k-1" for one in (first, second))
    assert not list(tmp_path.iterdir()), "nothing is written before there is a score"


def test_a_reward_that_is_not_there_is_named() -> None:
    with pytest.raises(TrimtabError, match="kind gold: there is none here; it needs the sandbox"):
        make_reward([reward_settings(kind="gold")], {})
    with pytest.raises(TrimtabError, match="kind trained: there is none here; it needs a stage that trains"):
        make_reward([reward_settings(kind="trained")], {})
    with pytest.raises(TrimtabError, match="no reward: name at least one with --reward"):
        make_reward([], {})
