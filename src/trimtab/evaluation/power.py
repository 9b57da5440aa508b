"""What a comparison can show: before it is made, the smallest gain that it will find; after it, what it would
have missed.

With n prompts and S training seeds a mean difference has the standard error √(prompt² / n + seed² / S), and a
true gain is found with the wanted power where it is

    √( (z_a + z_b)² prompt² / n + (t_a + t_b)² seed² / S )      a = 1 − 0.05 / (2 m), b = the power

or more: as the headline's interval (pooling.py) has it, with Student's t of S − 1 degrees of freedom, and with
Holm's first step where m pairs are compared. With one seed the seeds' part is left out: the gain is one of that
training run. tests/evaluation/test_power.py (test_the_smallest_gain_is_found_four_times_in_five) simulates it.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import scipy  # loads scipy.stats, half a second, where it is first named

from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.win_rate import WinCounts

POWER, LEVEL = 0.8, 0.95
UNLIKE_PROMPTS = 0.5**0.5
"""Standard deviation of a difference of two outcomes where both methods win half and have nothing in common: the
most that two such methods can differ without one undoing the other."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a paired difference: of one prompt's, the average over seeds, and of a training seed's
    mean; seed is None where it is not known."""

    prompt: float
    seed: float | None = None


def smallest_gain(spread: Spread, prompts: int, seeds: int = 1, pairs: int = 1, power: float = POWER) -> float:
    """In the difference's own unit. pairs: compared together. ValueError for no prompts, seeds or pairs."""
    if min(prompts, seeds, pairs) < 1:
        raise ValueError("the smallest gain takes one prompt, one seed and one pair at least")
    tail = 1 - (1 - LEVEL) / (2 * pairs)
    total = ((_z(tail) + _z(power)) * spread.prompt) ** 2 / prompts
    if seeds > 1 and spread.seed is not None:
        total += (_t(tail, seeds) + _t(power, seeds)) ** 2 * spread.seed**2 / seeds
    return math.sqrt(total)


def prompts_for(spread: Spread, gain: float, seeds: int = 1, pairs: int = 1, power: float = POWER) -> int | None:
    """How many prompts will show that gain; None where the seeds' part alone hides it."""
    by_seeds = 0.0
    if seeds > 1 and spread.seed is not None:
        by_seeds = smallest_gain(Spread(0.0, spread.seed), 1, seeds, pairs, power)
    left = gain**2 - by_seeds**2
    if left <= 0:
        return None
    count = smallest_gain(Spread(spread.prompt), 1, 1, pairs, power) ** 2 / left
    return max(1, math.ceil(count * (1 - 1e-9)))  # rounding must not add a prompt


def spread_of_difference(difference: Estimate) -> Spread | None:
    """Of a comparison that was made, the pilot of another: from its interval over prompts and its seeds' numbers.
    None where it has no interval or no n. What prompts and seeds do together counts as the prompts'."""
    within = difference.seeds.within_ci95 if difference.seeds else difference.ci95
    if within is None or not difference.n:
        return None
    prompt = (within[1] - within[0]) / 2 / _z((1 + LEVEL) / 2) * math.sqrt(difference.n)
    if difference.seeds is None or len(difference.seeds.values) < 2:
        return Spread(prompt)
    values = list(difference.seeds.values.values())
    return Spread(prompt, statistics.stdev(values))


def of_prompts(rate: Estimate, counts: WinCounts) -> Estimate:
    """A win rate whose n is prompts, whatever the number of seeds that answered them: results.json counts all
    judgements."""
    seeds = len(rate.seeds.values) if rate.seeds else 1
    return rate.model_copy(update={"n": counts.n // seeds})


@dataclass(frozen=True)
class Shortfall:
    """What a comparison would have missed. gain: the smallest difference that it finds four times in five. prompts:
    how many more show one of half that, to two digits; None where more prompts alone never do."""

    gain: float
    prompts: int | None


def shortfall(difference: Estimate, pairs: int = 1) -> Shortfall | None:
    """Of a comparison that was made. pairs: as in `smallest_gain`. None where it has no interval, or no width."""
    spread = spread_of_difference(difference)
    if spread is None or not difference.n or spread.prompt == 0:
        return None
    seeds = len(difference.seeds.values) if difference.seeds else 1
    gain = smallest_gain(spread, difference.n, seeds, pairs)
    enough = prompts_for(spread, gain / 2, seeds, pairs)
    return Shortfall(gain, None if enough is None else rounded_up(enough - difference.n))


def rounded_up(count: int) -> int:
    """To two digits: a count that rests on estimates."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step


def _z(share: float) -> float:
    return float(scipy.special.ndtri(share))


def _t(share: float, seeds: int) -> float:
    return float(scipy.stats.t.ppf(share, seeds - 1))
