"""The winner's curse as it is printed: its interval holds the true one, whatever was searched."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.statistics import mean_interval
from trimtab.tune.ending import winners_curse


def test_by_hand() -> None:
    value, (low, high) = winners_curse(0.61, Estimate(value=0.57, ci95=(0.52, 0.63)))
    assert value == pytest.approx(0.04)
    assert (low, high) == (pytest.approx(-0.02), pytest.approx(0.09))


def test_it_is_covered_in_two_hundred_searches() -> None:
    """24 settings worth 48 to 56 % are each measured on the same 150 prompts, and the best on 150 others. Prompts
    differ in difficulty, so that all settings' rates move together. At 95 %, 200 searches hold 183 to 197."""
    held, flattered = 0, []
    for search in range(200):
        rng = np.random.default_rng([7, search])
        worth = rng.uniform(0.48, 0.56, 24)
        tuning = _wins(rng, worth, 150).mean(axis=1)
        winner = int(tuning.argmax())
        test = _wins(rng, worth[[winner]], 150)[0]
        interval = mean_interval(test, reach=(0.0, 1.0), n_resamples=1000)
        curse, (low, high) = winners_curse(
            float(tuning[winner]), Estimate(value=float(test.mean()), ci95=(interval.low, interval.high))
        )
        true = tuning[winner] - worth[winner]
        held += low <= true <= high
        flattered.append(curse)
    assert 183 <= held <= 197
    assert np.mean(flattered) > 0.02, "to choose the best of 24 flatters it"


def _wins(rng: np.random.Generator, worth: np.ndarray, prompts: int) -> np.ndarray:
    """0 or 1 of each setting and prompt, whose chances are a setting's worth and a prompt's ease."""
    ease = rng.uniform(-0.4, 0.4, prompts)
    return (rng.random((len(worth), prompts)) < np.clip(worth[:, None] + ease, 0, 1)).astype(float)
