"""What a comparison's prompts can show, before it is made: lines of a plan."""

from __future__ import annotations

from trimtab.evaluation.power import (
    UNLIKE_PROMPTS,
    Spread,
    of_prompts,
    prompts_for,
    smallest_gain,
    spread_of_difference,
)
from trimtab.evaluation.results import Results
from trimtab.formats import listed, number

GAINS = 0.10, 0.05, 0.02
"""In win rate, of which a plan says how many prompts show them."""
EVEN_MATCH = 0.5
"""Standard deviation of an outcome where half of the prompts are won and none is tied: the most that it can be."""


def power_lines(
    prompts: int, methods: int, seeds: int = 1, pilot: Results | None = None, against_opponent: bool = False
) -> list[str]:
    """The smallest gain in win rate that will be shown four times in five.

    methods: compared with each other. against_opponent: one is the opponent that the others have a win rate
    against, and the gain is that rate less a half. pilot: results of an earlier study, whose pairs say how much
    differences vary; without them the most that prompts can vary is taken, and nothing of seeds.
    """
    pairs = methods * (methods - 1) // 2
    if not prompts or not pairs:
        return []
    spread, source = pilot_spread(pilot) if pilot is not None else (None, "")
    if spread is None:
        spread, source = Spread(UNLIKE_PROMPTS), "where methods' outcomes have nothing in common"
        if against_opponent and methods == 2:
            spread, source = Spread(EVEN_MATCH), "where half of the prompts are won and none is tied"
        source += "" if pilot is None else f"; there is no win rate in {pilot.name} to go by"
    gain = smallest_gain(spread, prompts, seeds, pairs)
    of = f"{prompts} test prompts" + (f" and {seeds} training seeds" if seeds > 1 else "")
    among = f", {pairs} pairs compared" if pairs > 1 else ""
    lines = [
        f"{of} show a gain of {number(gain, 1, 100)} points of win rate, or more, four times in five "
        f"({source}{among})."
    ]
    lines += _prompts_lines(spread, seeds, pairs)
    if spread.seed is None:
        lines.append("How much training seeds move a method is not known here, and is not in that gain.")
    elif seeds == 1:
        lines.append(
            f"In the pilot a training seed moved a difference by {number(spread.seed, 1, 100)} points (standard "
            "deviation): one seed cannot tell that from a gain."
        )
    return lines


def _prompts_lines(spread: Spread, seeds: int, pairs: int) -> list[str]:
    """How many prompts it takes to see gains that people ask about."""
    needed = {number(gain, 0, 100): prompts_for(spread, gain, seeds, pairs) for gain in GAINS}
    known = [f"{count:,} for {gain}" for gain, count in needed.items() if count is not None]
    lines = [f"To see a gain of so many points takes so many prompts: {listed(known)}."] if known else []
    if hidden := [gain for gain, count in needed.items() if count is None]:
        lines.append(
            f"With {seeds} seeds no number of prompts shows {listed(hidden)} points: that takes more seeds."
        )
    return lines


def pilot_spread(pilot: Results) -> tuple[Spread | None, str]:
    """The largest spreads of the pilot's differences in win rate, and where they are from, in words; of one method
    alone, that of its win rate."""
    pairs = [c.estimate for c in pilot.comparisons if c.metric == "win_rate"]
    if not pairs:  # one method alone: its win rate, whose distance from a half is the gain
        judged = [(m.estimates.get("win_rate"), m.win_counts) for m in pilot.methods.values()]
        pairs = [of_prompts(rate, counts) for rate, counts in judged if rate is not None and counts is not None]
    spreads = [spread for pair in pairs if (spread := spread_of_difference(pair)) is not None]
    if not spreads:
        return None, ""
    seeds = [spread.seed for spread in spreads if spread.seed is not None]
    return Spread(max(s.prompt for s in spreads), max(seeds, default=None)), f"as differences vary in {pilot.name}"
