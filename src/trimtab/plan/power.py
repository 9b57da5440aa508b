"""What a study's test prompts can show, before it is run: lines of a plan."""

from __future__ import annotations

from trimtab.evaluation.power import UNLIKE_PROMPTS, Spread, smallest_gain, spread_of_difference
from trimtab.evaluation.results import Results
from trimtab.formats import number


def power_lines(prompts: int, methods: int, seeds: int = 1, pilot: Results | None = None) -> list[str]:
    """The smallest gain in win rate that will be shown four times in five.

    methods: compared with each other. pilot: results of an earlier study, whose pairs say how much differences
    vary; without them the most that prompts can vary is taken, and nothing of seeds.
    """
    pairs = methods * (methods - 1) // 2
    if not prompts or not pairs:
        return []
    spread, source = pilot_spread(pilot) if pilot is not None else (None, "")
    if spread is None:
        spread, source = Spread(UNLIKE_PROMPTS), "where methods' outcomes have nothing in common"
    gain = smallest_gain(spread, prompts, seeds, pairs)
    of = f"{prompts} test prompts" + (f" and {seeds} training seeds" if seeds > 1 else "")
    among = f", {pairs} pairs compared" if pairs > 1 else ""
    lines = [
        f"{of} show a gain of {number(gain, 1, 100)} points of win rate, or more, four times in five "
        f"({source}{among})."
    ]
    if spread.seed is None:
        lines.append("How much training seeds move a method is not known here, and is not in that gain.")
    elif seeds == 1:
        lines.append(
            f"In the pilot a training seed moved a difference by {number(spread.seed, 1, 100)} points (standard "
            "deviation): one seed cannot tell that from a gain."
        )
    return lines


def pilot_spread(pilot: Results) -> tuple[Spread | None, str]:
    """The largest spreads of the pilot's differences in win rate, and where they are from, in words."""
    pairs = [c.estimate for c in pilot.comparisons if c.metric == "win_rate"]
    spreads = [spread for pair in pairs if (spread := spread_of_difference(pair)) is not None]
    if not spreads:
        return None, ""
    seeds = [spread.seed for spread in spreads if spread.seed is not None]
    return Spread(max(s.prompt for s in spreads), max(seeds, default=None)), f"as differences vary in {pilot.name}"
