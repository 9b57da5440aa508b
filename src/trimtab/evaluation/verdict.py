"""Results in plain sentences: what helped, by how much, what did not, and what to doubt.

"Clear" means that the 95 % interval excludes no difference and that the p-value survives Holm's correction:
between methods over all pairs, against the opponent over as many claims. With several training seeds the interval
is pooling.py's, which excludes no difference only where those over prompts and over seeds both do. Every sentence
follows from numbers in the results.
"""

from __future__ import annotations

from trimtab.catalogue import label, optimising_methods, ordered_methods
from trimtab.evaluation.difference import Difference
from trimtab.evaluation.estimate import Estimate, SeedSpread
from trimtab.evaluation.length_control import FEW_PROMPTS as FEW_FOR_LENGTHS
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.metrics import paired_metrics
from trimtab.evaluation.missing import withheld
from trimtab.evaluation.overoptimisation import evaluations, reward_against_judge, sentence
from trimtab.evaluation.power import of_prompts, shortfall
from trimtab.evaluation.results import Comparison, Results
from trimtab.evaluation.win_rate import WinCounts
from trimtab.formats import interval_text, listed, number, p_text, percent, points

ALPHA = 0.05
LENGTH_DROP = 0.05  # raw minus length-controlled win rate that is worth a sentence
NAMED = 4
"""Methods that a sentence names before it counts the others."""
NOT_JUDGED = (
    "No method was judged, so nothing here says whether alignment helped: that needs a judge and an opponent."
)


def clear(c: Difference) -> bool:
    """Whether the interval excludes no difference and the p-value survives the correction, and what is missing
    could not undo it."""
    if withheld(c.n, c.missing, c.missing_bounds, 0.0):
        return False
    p = c.p_value if c.p_holm is None else c.p_holm
    return (c.ci95[0] > 0 or c.ci95[1] < 0) and p < ALPHA


def find(results: Results, a: str, b: str, metric: str) -> Comparison | None:
    """The comparison of a with b, turned round where it is stored the other way."""
    for c in results.comparisons:
        if c.metric == metric and {c.a, c.b} == {a, b}:
            return c if c.a == a else c.turned_round()
    return None


def seed_values(s: SeedSpread | None, scale: float, digits: int, sign: bool = False) -> str:
    """ "+9.1, +11.0 and +8.7 by seed"; nothing without a spread."""
    if s is None:
        return ""
    each = [f"{scale * v:{'+' if sign else ''}.{digits}f}".replace("-", "−") for v in s.values.values()]
    return f"{listed(each)} by seed"


def _against_opponent(results: Results, method: str, counts: WinCounts) -> str:
    against = results.opponent or "the opponent"
    rate = results.methods[method].estimates.get("win_rate")
    if rate is None or rate.ci95 is None:
        return f"{label(method)}: none of its {counts.missing} prompts has a score, so it has no win rate."
    over = f" over {len(rate.seeds.values)} seeds" if rate.seeds else ""
    of = f"n = {counts.n}{over}, {counts.ties} tie{'' if counts.ties == 1 else 's'}"
    if counts.missing:
        of += f", {counts.missing} missing"
    if rate.seeds:
        of += f"; {seed_values(rate.seeds, 100, 1)}"
    if withheld(counts.n, counts.missing, counts.missing_bounds, 0.5):
        return (
            f"{label(method)} against {against}: no conclusion. {counts.missing} of {counts.n + counts.missing} "
            f"prompts have no score; had all been lost or won, its win rate of {percent(rate.value)} would be "
            f"{interval_text(counts.missing_bounds)} %."
        )
    what = f"win rate {percent(rate.value)} (95 % interval {interval_text(rate.ci95)} %, {of})"
    ahead, p = lead(rate), counts.p_holm
    if p is not None and ahead and not survives(p):
        who = f"{label(method)} against {against}"
        return f"{who}: suggestive only, {what}; {p_text(p)} after Holm's correction, as between methods."
    verb = {1: "beats", -1: "loses to", 0: "cannot be told apart from"}[ahead]
    return f"{label(method)} {verb} {against}: {what}{'' if ahead else _lead_unseen(rate, counts)}."


def _lead_unseen(rate: Estimate, counts: WinCounts) -> str:
    """What this win rate, not clearly off a half, would have missed."""
    found = shortfall(of_prompts(rate, counts))
    if found is None:
        return ""
    text = f"; a true rate within {number(found.gain, 1, 100)} points of 50 % would have gone unseen"
    if found.prompts is None:
        return text
    half = number(found.gain / 2, 1, 100)
    return f"{text}, and to see one {half} points off takes about {found.prompts:,} more prompts"


def lead(rate: Estimate | None) -> int:
    """1 or -1 where the interval of a win rate is above or below a half, else 0."""
    return 0 if rate is None or rate.ci95 is None else (rate.ci95[0] > 0.5) - (rate.ci95[1] < 0.5)


def survives(p: float | None) -> bool:
    """Whether a claim survives Holm's correction. Results of an older version have no p-value of it."""
    return p is None or p < ALPHA


def _against_start(results: Results, method: str, start: str) -> str | None:
    """By the first metric that answers whether a method helped and that both methods have."""
    for metric in paired_metrics():
        c = find(results, method, start, metric.name) if metric.paired and metric.paired.headline else None
        if metric.paired is not None and c is not None:
            break
    else:
        return None
    name, scale, digits = metric.paired.name, metric.scale, metric.digits
    p = p_text(c.p_value) if c.p_holm is None else f"{p_text(c.p_holm)} after Holm's correction"
    size = f"{scale * c.difference:+.{digits}f}".replace("-", "−")
    each = f"; {seed_values(c.seeds, scale, digits, sign=True)}" if c.seeds else ""
    interval = interval_text(c.ci95, scale, digits)
    numbers = f"{size} points of {name} (95 % interval {interval}; {p}{each})"
    who = f"{label(method)} against {label(start)}"
    if withheld(c.n, c.missing, c.missing_bounds, 0.0):
        bounds = interval_text(c.missing_bounds, scale, digits, sign=True)
        return (
            f"{who}: no conclusion, {numbers}; {c.missing} of {(c.n or 0) + (c.missing or 0)} prompts lack a score "
            f"of one of them, which could make it {bounds}."
        )
    if clear(c):
        return f"{who}: {'helped' if c.difference > 0 else 'hurt'}, {numbers}."
    if c.ci95[0] > 0 or c.ci95[1] < 0:
        return f"{who}: suggestive only, {numbers}; it does not survive having compared every pair."
    within = c.seeds.within_ci95 if c.seeds else None
    if within is not None and (within[0] > 0 or within[1] < 0):
        return f"{who}: clear in these training runs, but the seeds differ too much to expect it again, {numbers}."
    return f"{who}: no measurable difference in {name}, {numbers}{_unseen(results, c, scale, digits)}."


def _unseen(results: Results, c: Comparison, scale: float, digits: int) -> str:
    """What this comparison would have missed, and what would show half of that."""
    pairs = sum(other.metric == c.metric for other in results.comparisons)
    found = shortfall(c.estimate, pairs)
    if found is None:
        return ""
    text = f"; differences below {number(found.gain, digits, scale)} would have gone unseen"
    if found.prompts is None:
        return f"{text}, and to see half of that takes more seeds, not prompts alone"
    half = number(found.gain / 2, digits, scale)
    return f"{text}, and to see one of {half} takes about {found.prompts:,} more prompts"


def _penalty_sentence(results: Results) -> str | None:
    """What the length penalty did to length, and what it cost in correctness."""
    excess = find(results, "sft_length", "sft", "excess_length")
    if excess is None:
        return None
    who = f"{label('sft_length')} against {label('sft')}"
    size, verb = f"{abs(excess.difference):.1f}", "fell" if excess.difference < 0 else "rose"
    text = f"{who}: mean excess over the chosen length {verb} by {size} tokens [{_change(excess, 1.0)}]"
    correct = find(results, "sft_length", "sft", "correctness")
    if correct is not None:
        text += f"; correctness changed by {points(correct.difference)} [{_change(correct, 100.0)}]"
    return text + "."


def _change(c: Comparison, scale: float) -> str:
    return ", ".join(f"{scale * x:+.1f}".replace("-", "−") for x in c.ci95)


def stage_paths(results: Results, stage: str, outcome: str) -> list[str]:
    """The stage's evaluations in words, of the seeds where training reward and judge did `outcome`."""
    sentences = []
    by_seed = results.curves_of(stage)
    for seed, curves in by_seed.items():
        path = evaluations(curves)
        if reward_against_judge(path) == outcome:
            sentences.append((f"seed {seed}: " if len(by_seed) > 1 else "") + sentence(path))
    return sentences


def _together_sentences(results: Results) -> list[str]:
    return [
        f"{label(stage)}: training reward and judge rose together: {'; '.join(paths)}."
        for stage in optimising_methods()
        if (paths := stage_paths(results, stage, "together"))
    ]


def _length_sentence(method: str, m: MethodResult) -> str | None:
    rate, controlled = m.estimates.get("win_rate"), m.estimates.get("length_controlled_win_rate")
    if rate is None or rate.ci95 is None or controlled is None:
        return None
    if controlled.n is not None and controlled.n < FEW_FOR_LENGTHS:
        return None  # the ridge moves a rate of few prompts by more than lengths do
    counts = m.win_counts
    if counts is not None and withheld(counts.n, counts.missing, counts.missing_bounds, 0.5):
        return None
    drop = rate.value - controlled.value
    ci = f" (95 % interval {interval_text(controlled.ci95)} %)" if controlled.ci95 else ""
    how = ", extrapolated" if m.length_effect and m.length_effect.extrapolated else ""
    numbers = f"{percent(controlled.value)}{ci} instead of {percent(rate.value)}{how}"
    p_holm = m.win_counts.p_holm if m.win_counts else None
    lost_lead = lead(rate) > 0 and survives(p_holm) and controlled.ci95 is not None and controlled.ci95[0] <= 0.5
    if drop > 0 and lost_lead:
        return (
            f"{label(method)}: at equal length a model predicts {numbers}: that its lead would hold is not shown."
        )
    if abs(drop) >= LENGTH_DROP:
        return f"{label(method)}: at equal length a model predicts {numbers}."
    return None


def _best(results: Results) -> str | None:
    rates = {name: results.methods[name].value("win_rate") for name in ordered_methods(results.methods)}
    rated = [(rate, name) for name, rate in rates.items() if rate is not None]
    if len(rated) < 2:
        return None
    if results.opponent_method is not None:
        rated.append((0.5, results.opponent_method))
    top, best = max(rated, key=lambda r: r[0])
    equals = [
        name
        for _, name in rated
        if name != best and not ((c := find(results, best, name, "win_rate")) and clear(c))
    ]
    first = f"{label(best)} has the highest win rate, {percent(top)}"
    if best == results.opponent_method:
        first = f"No method has won more than half against {label(best)}, the opponent"
        if not equals:
            return f"{first}, and all are clearly behind it."
    if not equals:
        return f"{first}, clearly above every other method."
    named = [label(name) for name in equals]
    if len(named) > NAMED + 1:
        named = [*named[:NAMED], f"{len(named) - NAMED} others"]
    return f"{first}; these data do not clearly separate it from {listed(named)}."


def verdict(results: Results, start: str | None = None) -> list[str]:
    """Sentences, the answer first: the best, each against the opponent, the start, and at equal length. start: the
    method that the others are set beside; without it a study's base and SFT."""
    names = ordered_methods(results.methods)
    lacking = mostly_missing(results)
    sentences: list[str | None] = ["No conclusion: most of the judge's scores are missing."] if lacking else []
    sentences += [] if lacking else [_best(results)]
    for name in names:
        counts = results.methods[name].win_counts
        if counts is not None:
            sentences.append(_against_opponent(results, name, counts))
        elif name == results.opponent_method:
            sentences.append(f"{label(name)} is the opponent itself, which the others' win rates are against.")
    if start in names:
        sentences += [_against_start(results, name, str(start)) for name in names if name != start]
    elif names and names[0] == "base":
        sentences += [_against_start(results, name, "base") for name in names[1:]]
    if start is None and "sft" in names:
        sentences += [_against_start(results, n, "sft") for n in names[names.index("sft") + 1 :]]
    sentences += [_length_sentence(name, results.methods[name]) for name in names]
    sentences += [_penalty_sentence(results), *_together_sentences(results)]
    said = [s for s in sentences if s]
    return said or [NOT_JUDGED]


def mostly_missing(results: Results) -> list[str]:
    """Methods of which more prompts lack a score than have one, in words for the head of everything."""
    return [
        f"MOST SCORES ARE MISSING: {label(name)} has a score for {c.n} of {c.n + c.missing} prompts, and its win "
        "rate is of those alone. Run the same command again once the judge answers; trust none of it until then."
        for name in ordered_methods(results.methods)
        if (c := results.methods[name].win_counts) is not None and c.missing > c.n
    ]
