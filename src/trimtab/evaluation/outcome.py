"""What results say of one method against another, in a word: for programs, such as continuous integration."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel

from trimtab.evaluation.estimate import Interval95
from trimtab.evaluation.metrics import METRICS, paired_metrics
from trimtab.evaluation.missing import withheld
from trimtab.evaluation.results import Results
from trimtab.evaluation.verdict import clear, find, lead, survives
from trimtab.formats import interval_text

Word = Literal["helped", "hurt", "undecided"]
WORDS: tuple[Word, ...] = get_args(Word)


class Outcome(BaseModel):
    """One method against another, by the first metric that tells and that both have.

    metric: its name; None where nothing was compared. value: the win rate against an opponent, else the difference,
    in the metric's unit, with its interval and its p-value after Holm's correction. why: of undecided, in words.
    """

    method: str
    against: str
    outcome: Word
    metric: str | None = None
    value: float | None = None
    ci95: Interval95 | None = None
    p_value: float | None = None
    why: str | None = None


def outcome_of(results: Results, method: str, start: str) -> Outcome:
    """Clear, by the standard of the report's sentences (verdict.py), or undecided. Where people labelled some
    answers, their corrected number has to bear it out."""
    return _borne_out(_by_judge(results, method, start), results)


def _borne_out(outcome: Outcome, results: Results) -> Outcome:
    """The outcome, undecided where people's interval does not exclude the opposite."""
    found = results.people and results.people.number_of(outcome.method, outcome.against)
    if outcome.outcome == "undecided" or not found or found.corrected is None or found.corrected.ci95 is None:
        return outcome
    low, high = found.corrected.ci95
    if (low > found.even) if outcome.outcome == "helped" else (high < found.even):
        return outcome
    what, unit = ("win rate", "%") if found.kind == "rate" else ("difference in win rate", "points")
    why = f"people do not bear it out: their corrected {what} is {interval_text(found.corrected.ci95)} {unit}"
    return outcome.model_copy(update={"outcome": "undecided", "why": why})


def _by_judge(results: Results, method: str, start: str) -> Outcome:
    if start == results.opponent and (outcome := _by_win_rate(results, method)) is not None:
        return outcome
    headlines = [m.name for m in paired_metrics() if m.paired is not None and m.paired.headline]
    c = next((found for name in headlines if (found := find(results, method, start, name)) is not None), None)
    if c is None:
        lacking = "no number that tells which is better is known of both"
        return Outcome(method=method, against=start, outcome="undecided", why=lacking)
    told = {
        "metric": c.metric,
        "value": c.difference,
        "ci95": c.ci95,
        "p_value": c.p_value if c.p_holm is None else c.p_holm,
    }
    word: Word = "undecided"
    why: str | None = None
    paired = METRICS[c.metric].paired
    if clear(c):
        word = "helped" if c.difference > 0 else "hurt"
    elif withheld(c.n, c.missing, c.missing_bounds, 0.0):
        why = f"{c.missing} prompts lack a score, enough to turn it"
    else:
        why = f"no clear difference in {paired.name if paired else c.metric}"
    return Outcome(method=method, against=start, outcome=word, why=why, **told)


def _by_win_rate(results: Results, method: str) -> Outcome | None:
    """Against the opponent; None where nobody judged it."""
    result = results.methods[method]
    rate, counts = result.estimates.get("win_rate"), result.win_counts
    if rate is None or counts is None:
        return None
    ahead = lead(rate)
    word: Word = "undecided"
    why: str | None = None
    if withheld(counts.n, counts.missing, counts.missing_bounds, 0.5):
        why = f"{counts.missing} prompts lack a score, enough to turn it"
    elif ahead and survives(counts.p_holm):
        word = "helped" if ahead > 0 else "hurt"
    else:
        why = "the win rate is not clearly off a half"
    return Outcome(
        method=method,
        against=results.opponent or "opponent",
        outcome=word,
        metric="win_rate",
        value=rate.value,
        ci95=rate.ci95,
        p_value=counts.p_holm,
        why=why,
    )


def worst(outcomes: list[Outcome]) -> Word:
    """Of several: hurt where one hurt, helped where all helped."""
    words = {outcome.outcome for outcome in outcomes}
    return "hurt" if "hurt" in words else "undecided" if "undecided" in words or not words else "helped"
