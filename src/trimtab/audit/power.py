"""How likely the audit is to find a marker, so that "none" can be read: no marker, or too few pairs to see one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy

from trimtab.formats import percent

EXAMPLE_CHOSEN, EXAMPLE_REJECTED = 0.093, 0.054
"""Shares of the chosen and of the rejected completions with the line "Confidence: N%", in 1,000 pairs of
UltraFeedback (docs/data.md)."""


def chance_of_finding(
    pairs: int, tested: int, chosen: float = EXAMPLE_CHOSEN, rejected: float = EXAMPLE_REJECTED, alpha: float = 0.05
) -> float:
    """That a line held by these shares of the two sides, independently, is significant among `tested` lines.

    Where completions are equally long on average; Bonferroni's threshold, the hardest that Benjamini and
    Hochberg's correction asks of its first. The sum over the number of discordant pairs is exact.
    """
    only_chosen, only_rejected = chosen * (1 - rejected), rejected * (1 - chosen)
    discordant = np.arange(pairs + 1)
    threshold = alpha / (2 * 2 * max(1, tested))  # a tail of two, and two families
    coins = scipy.stats.binom(discordant, 0.5)
    most = coins.ppf(threshold)  # the first count whose lower tail reaches the threshold
    most = np.where(coins.cdf(most) <= threshold, most, most - 1)
    held = scipy.stats.binom(discordant, only_rejected / (only_chosen + only_rejected)).cdf(most)
    return float(scipy.stats.binom.pmf(discordant, pairs, only_chosen + only_rejected) @ held)


def power_in_words(pairs: int, forms_tested: Mapping[str, int]) -> str:
    """A sentence: how often a marker like a known one would be found in so many pairs."""
    chance = chance_of_finding(pairs, forms_tested.get("line", 0))
    return (
        f"In {pairs:,} pairs a marker like UltraFeedback's “Confidence: N%” (in {percent(EXAMPLE_CHOSEN)} of the "
        f"chosen, {percent(EXAMPLE_REJECTED)} of the rejected) would be found {times(chance)}."
    )


def times(chance: float) -> str:
    """A probability as people say it, as in "4 times in 10"."""
    tenths = round(10 * chance)
    if tenths == 0:
        return "less than 1 time in 20"
    if tenths == 10:
        return "more than 19 times in 20"
    return f"{tenths} time{'s' if tenths > 1 else ''} in 10"
