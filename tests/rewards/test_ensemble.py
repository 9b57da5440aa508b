"""Ensembles: mean, spread and minimum by hand, and members on one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from trimtab.errors import TrimtabError
from trimtab.rewards.base import Reward, Scored
from trimtab.rewards.ensemble import EnsembleReward
from trimtab.rewards.settings import check_judge, make_reward, reward_given
from trimtab.rewards.weighted import WeightedReward


class Table(Reward):
    """The scores that it is given, by text."""

    def __init__(self, name: str, **scores: float | None) -> None:
        self.name, self.signature, self.scores = name, name, scores

    def scored(self, prompts: Any, completions: Sequence[str], **more: Any) -> list[Scored]:
        found = [self.scores[text] for text in completions]
        return [Scored(score, None if score is not None else "lost") for score in found]


A, B, C = Table("a", x=1.0, y=4.0), Table("b", x=2.0, y=0.0), Table("c", x=6.0, y=2.0)


def scores(reward: Reward, *texts: str) -> list[float | None]:
    return reward.score(["p"] * len(texts), texts)


def test_mean_less_k_times_the_spread_by_hand() -> None:
    """Of 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3 = 14/3; of 4, 0, 2: mean 2, variance 8/3."""
    expected = [3 - 2 * math.sqrt(14 / 3), 2 - 2 * math.sqrt(8 / 3)]
    assert scores(EnsembleReward([A, B, C], 2.0), "x", "y") == pytest.approx(expected)
    assert scores(EnsembleReward([A, B, C], 0.0), "x", "y") == pytest.approx([3, 2])
    assert scores(EnsembleReward([A, B, C], 0.5, spread="variance"), "x") == pytest.approx([3 - 7 / 3])
    assert scores(EnsembleReward([A, B, C], combine="min"), "x", "y") == [1, 0]
    (found,) = EnsembleReward([A, B, C]).scored(["p"], ["x"])
    assert found.breakdown == pytest.approx({"mean": 3, "spread": math.sqrt(14 / 3), "a": 1, "b": 2, "c": 6})


def test_a_member_without_a_score_leaves_none() -> None:
    (found,) = EnsembleReward([A, Table("d", x=None)]).scored(["p"], ["x"])
    assert (found.score, found.reason) == (None, "d: lost")


def test_members_on_one_scale() -> None:
    """b is 10 a + 100: on one scale they are the same, at the mean of their means and deviations."""
    one, other = Table("a", x=0.0, y=2.0, z=3.0), Table("b", x=100.0, y=120.0, z=130.0)
    reward = EnsembleReward([one, other], 1.0)
    assert reward.wants_scale
    assert WeightedReward([(reward, 0.5), (C, 1.0)]).wants_scale
    reward.set_scale(["p", "p"], ["x", "y"])
    (found,) = reward.scored(["p"], ["z"])
    centre, width = (1 + 110) / 2, (1 + 10) / 2
    assert found.score == pytest.approx(centre + width * 2)
    assert found.breakdown["spread"] == pytest.approx(0, abs=1e-9)
    assert not reward.wants_scale
    assert not EnsembleReward([one, other], standardise=False).wants_scale
    with pytest.raises(TrimtabError, match="member a tells none of 2 samples from the others"):
        reward.set_scale(["p", "p"], ["x", "x"])


def test_how_many_pairs_each_member_ranks_otherwise() -> None:
    """Of one prompt: means are x 3, y 2, and a and b rank y and x so; of another prompt nothing is compared."""
    reward = EnsembleReward([A, B, C], 0.0)
    reward.scored(["p", "p", "q"], ["x", "y", "x"])
    assert reward.take_metrics() == {"otherwise/a": 1.0, "otherwise/b": 0.0, "otherwise/c": 0.0}
    assert reward.take_metrics() == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"members": []}, "needs members"),
        ({"members": ["nowhere"]}, "'nowhere': no such folder, nor a name of a reward"),
        ({"members": ["gold", "gold"]}, "'gold' is there twice"),
    ],
)
def test_wrong_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TrimtabError, match=message):
        reward_given({"kind": "ensemble", **given}, "reward")


def test_settings_of_members() -> None:
    settings = reward_given({"kind": "ensemble", "members": ["gold", "trained"]}, "reward")
    assert settings.needs_sandbox
    assert settings.needs_training
    assert scores(make_reward([settings], {"gold": A, "trained": C}), "x") == pytest.approx([3.5 - 2.5])
    alone = reward_given({"kind": "ensemble", "members": ["gold"]}, "reward")
    with pytest.raises(TrimtabError, match="needs two members, or one reward model of several heads"):
        make_reward([alone], {"gold": A})
    with pytest.raises(ValueError, match="gives the mean, with the spread beside it"):
        check_judge(alone, in_sandbox=True)
