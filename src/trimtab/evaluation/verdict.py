"""Results in plain sentences: what helped, by how much, what did not, and what to doubt.

"Clear" means that the 95 % interval excludes no difference and that the p-value survives Holm's correction:
between methods over all pairs, against the opponent over as many claims. With several training seeds the interval
is pooling.py's, which excludes no difference only where those over prompts and over seeds both do. Every sentence
follows from numbers in the results.
"""

from __future__ import annotations

from trimtab.catalogue import label, optimising_methods, ordered_methods
from trimtab.evaluation.length_control import FEW_PROMPTS as FEW_FOR_LENGTHS
from trimtab.evaluation.parting import evaluations, parting, sentence
from trimtab.evaluation.results import Comparison, MethodResult, Results, SeedSpread, WinRate

ALPHA = 0.05
FEW_PROMPTS = 100
MANY_TIES = 0.2
MANY_UNFINISHED = 0.1
LENGTH_DROP = 0.05  # raw minus length-controlled win rate that is worth a sentence
AMPLIFIED_BY = 1.5
AMPLIFIED_SHARE = 0.05


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    return f"{100 * difference:+.1f} points".replace("-", "−")


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def interval_text(ci: tuple[float, float], scale: float = 100, digits: int = 1) -> str:
    low, high = (f"{scale * x:.{digits}f}".replace("-", "−") for x in ci)
    return f"{low} to {high}"


def clear(c: Comparison) -> bool:
    p = c.p_value if c.p_holm is None else c.p_holm
    return (c.ci95[0] > 0 or c.ci95[1] < 0) and p < ALPHA


def find(results: Results, a: str, b: str, metric: str) -> Comparison | None:
    """The comparison of a with b, turned round where it is stored the other way."""
    for c in results.comparisons:
        if c.metric == metric and {c.a, c.b} == {a, b}:
            if c.a == a:
                return c
            turned = {"a": a, "b": b, "difference": -c.difference, "ci95": _negated(c.ci95)}
            return c.model_copy(update=turned | {"seeds": c.seeds and _turned(c.seeds)})
    return None


def _negated(ci: tuple[float, float]) -> tuple[float, float]:
    return (-ci[1], -ci[0])


def _turned(s: SeedSpread) -> SeedSpread:
    return SeedSpread(
        values={seed: -v for seed, v in s.values.items()},
        between_ci95=s.between_ci95 and _negated(s.between_ci95),
        within_ci95=s.within_ci95 and _negated(s.within_ci95),
    )


def seed_values(s: SeedSpread | None, scale: float, digits: int, sign: bool = False) -> str:
    """ "+9.1, +11.0 and +8.7 by seed"; nothing without a spread."""
    if s is None:
        return ""
    each = [f"{scale * v:{'+' if sign else ''}.{digits}f}".replace("-", "−") for v in s.values.values()]
    return f"{_listed(each)} by seed"


def _against_opponent(results: Results, method: str, w: WinRate) -> str:
    against = results.opponent or "the opponent"
    if w.ties_half is None or w.ci95 is None:
        return f"{label(method)}: none of its {w.missing} prompts has a score, so it has no win rate."
    s = results.methods[method].seeds.get("win_rate")
    over = f" over {len(s.values)} seeds" if s else ""
    counts = f"n = {w.n}{over}, {w.ties} tie{'' if w.ties == 1 else 's'}"
    if w.missing:
        counts += f", {w.missing} missing"
    if s:
        counts += f"; {seed_values(s, 100, 1)}"
    what = f"win rate {percent(w.ties_half)} (95 % interval {interval_text(w.ci95)} %, {counts})"
    lead, p = _lead(w), w.p_holm
    if p is not None and lead and not _survives(p):
        who = f"{label(method)} against {against}"
        return f"{who}: suggestive only, {what}; {p_text(p)} after Holm's correction, as between methods."
    verb = {1: "beats", -1: "loses to", 0: "cannot be told apart from"}[lead]
    return f"{label(method)} {verb} {against}: {what}."


def _lead(w: WinRate) -> int:
    """1 or -1 where the interval is above or below a half, else 0."""
    return 0 if w.ci95 is None else (w.ci95[0] > 0.5) - (w.ci95[1] < 0.5)


def _survives(p: float | None) -> bool:
    """Results of an older version have no p-value against the opponent."""
    return p is None or p < ALPHA


def _against_start(results: Results, method: str, start: str) -> str | None:
    c = find(results, method, start, "win_rate")
    unit, scale, digits, name = "points of win rate", 100.0, 1, "win rate"
    if c is None:
        c = find(results, method, start, "judge_score")
        unit, scale, digits, name = "points of judge score", 1.0, 3, "judge score"
    if c is None:
        return None
    p = p_text(c.p_value) if c.p_holm is None else f"{p_text(c.p_holm)} after Holm's correction"
    size = f"{scale * c.difference:+.{digits}f}".replace("-", "−")
    each = f"; {seed_values(c.seeds, scale, digits, sign=True)}" if c.seeds else ""
    numbers = f"{size} {unit} (95 % interval {interval_text(c.ci95, scale, digits)}; {p}{each})"
    who = f"{label(method)} against {label(start)}"
    if clear(c):
        return f"{who}: {'helped' if c.difference > 0 else 'hurt'}, {numbers}."
    if c.ci95[0] > 0 or c.ci95[1] < 0:
        return f"{who}: suggestive only, {numbers}; it does not survive having compared every pair."
    within = c.seeds.within_ci95 if c.seeds else None
    if within is not None and (within[0] > 0 or within[1] < 0):
        return f"{who}: clear in these training runs, but the seeds differ too much to expect it again, {numbers}."
    return f"{who}: no measurable difference in {name}, {numbers}."


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


def _paths(results: Results, stage: str, wanted: str) -> list[str]:
    """The stage's evaluations in words, of the seeds where training reward and judge did `wanted`."""
    found = []
    every = results.curves_of(stage)
    for seed, curves in every.items():
        path = evaluations(curves)
        if parting(path) == wanted:
            found.append((f"seed {seed}: " if len(every) > 1 else "") + sentence(path))
    return found


def _together_sentences(results: Results) -> list[str]:
    return [
        f"{label(stage)}: training reward and judge rose together: {'; '.join(found)}."
        for stage in optimising_methods()
        if (found := _paths(results, stage, "together"))
    ]


def _parting_warnings(results: Results) -> list[str]:
    return [
        f"{label(stage)}: training reward and judge parted, which is reward hacking: {'; '.join(found)}. "
        "That is the end of training; the model that was kept may be an earlier one."
        for stage in optimising_methods()
        if (found := _paths(results, stage, "parted"))
    ]


def _length_sentence(method: str, m: MethodResult) -> str | None:
    w, lc = m.win_rate, m.length_controlled_win_rate
    if w is None or w.ties_half is None or w.ci95 is None or lc is None:
        return None
    if lc.n is not None and lc.n < FEW_FOR_LENGTHS:
        return None  # the ridge moves a rate of few prompts by more than lengths do
    drop = w.ties_half - lc.value
    ci = f" (95 % interval {interval_text(lc.ci95)} %)" if lc.ci95 else ""
    numbers = f"from {percent(w.ties_half)} to {percent(lc.value)}{ci}"
    lost_lead = _lead(w) > 0 and _survives(w.p_holm) and lc.ci95 is not None and lc.ci95[0] <= 0.5
    if drop > 0 and lost_lead:
        return f"{label(method)}: at equal length its win rate goes {numbers}: its lead may be length."
    if drop >= LENGTH_DROP:
        return f"{label(method)}: at equal length its win rate falls {numbers}: part of it may be length."
    if drop <= -LENGTH_DROP:
        return f"{label(method)}: at equal length its win rate rises {numbers}: its lengths cost it wins."
    return None


def _best(results: Results) -> str | None:
    rated: list[tuple[float, str]] = []
    for name in ordered_methods(results.methods):
        w = results.methods[name].win_rate
        if w is not None and w.ties_half is not None:
            rated.append((w.ties_half, name))
    if len(rated) < 2:
        return None
    top, best = max(rated, key=lambda r: r[0])
    equals = [
        name
        for _, name in rated
        if name != best and not ((c := find(results, best, name, "win_rate")) and clear(c))
    ]
    first = f"{label(best)} has the highest win rate, {percent(top)}"
    if not equals:
        return f"{first}, clearly above every other method."
    return f"{first}; these data do not clearly separate it from {_listed([label(e) for e in equals])}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def verdict(results: Results) -> list[str]:
    """Sentences, the answer first: the best, each against the opponent, the start, and at equal length."""
    names = ordered_methods(results.methods)
    lacking = mostly_missing(results)
    sentences: list[str | None] = ["No conclusion: most of the judge's scores are missing."] if lacking else []
    sentences += [] if lacking else [_best(results)]
    for name in names:
        w = results.methods[name].win_rate
        if w is not None:
            sentences.append(_against_opponent(results, name, w))
    if names and names[0] == "base":
        sentences += [_against_start(results, name, "base") for name in names[1:]]
    if "sft" in names:
        sentences += [_against_start(results, n, "sft") for n in names[names.index("sft") + 1 :]]
    sentences += [_length_sentence(name, results.methods[name]) for name in names]
    sentences += [_penalty_sentence(results), *_together_sentences(results)]
    said = [s for s in sentences if s]
    return said or [
        "No method was judged, so nothing here says whether alignment helped: that needs a judge and an opponent."
    ]


def _win_rate_warnings(name: str, w: WinRate) -> list[str]:
    found = []
    if w.missing:
        text = f"{label(name)}: {w.missing} of {w.n + w.missing} prompts have no score and are left out"
        if w.missing_bounds is not None:
            bounds = interval_text(w.missing_bounds)
            text += f"; had all of them been lost or won, its win rate would be {bounds} %"
            if _turns(w):
                text += ": enough to turn the result"
        found.append(text + ".")
    if w.n and w.ties / w.n > MANY_TIES:
        found.append(f"{label(name)}: {percent(w.ties / w.n)} of its prompts are ties, counted as half.")
    return found


def mostly_missing(results: Results) -> list[str]:
    """Methods of which more prompts lack a score than have one, in words for the head of everything."""
    return [
        f"MOST SCORES ARE MISSING: {label(name)} has a score for {w.n} of {w.n + w.missing} prompts, and its win "
        "rate is of those alone. Run the same command again once the judge answers; trust none of it until then."
        for name in ordered_methods(results.methods)
        if (w := results.methods[name].win_rate) is not None and w.missing > w.n
    ]


def _turns(w: WinRate) -> bool:
    """Whether the missing prompts could undo a lead or a deficit that the interval calls real."""
    if w.missing_bounds is None or not _survives(w.p_holm):
        return False
    low, high = w.missing_bounds
    return (_lead(w) > 0 and low <= 0.5) or (_lead(w) < 0 and high >= 0.5)


def _marker_warnings(results: Results) -> list[str]:
    audit, found = results.audit, []
    if audit is None:
        return []
    for marker in (m for m in audit.markers if m.significant):
        for name, rate in audit.amplification.get(marker.text, {}).items():
            if name not in results.methods or rate is None:
                continue
            if rate >= AMPLIFIED_SHARE and rate > AMPLIFIED_BY * marker.chosen_share:
                found.append(
                    f'{label(name)} amplifies a marker of the data: "{marker.text}" is in {percent(rate)} '
                    f"of its outputs, {percent(marker.chosen_share)} of the chosen and "
                    f"{percent(marker.rejected_share)} of the rejected texts."
                )
    return found


def _curve_warnings(results: Results) -> list[str]:
    found = []
    for stage in results.curves:
        rows = [row for curves in results.curves_of(stage).values() for row in [*curves.train, *curves.validation]]
        bad = sum(any(k.endswith("loss") and v is None for k, v in row.items()) for row in rows)
        if bad:
            found.append(f"{label(stage)}: the loss is not a number in {bad} logged rows.")
    return found


def warnings_of(results: Results) -> list[str]:
    """What a reader must know before any number."""
    found: list[str] = []
    if results.judge is not None and results.judge == results.training_reward:
        found.append(
            f"The judge, {results.judge}, is also the training reward: a win rate judged by what "
            "was optimised shows little."
        )
    seeds = len(set(results.provenance.seeds))
    if seeds == 2:
        found.append(
            "Two seeds: what another seed would change is told from one difference, so intervals are very wide."
        )
    if seeds == 1:
        found.append(
            "One training seed: the intervals hold for other prompts, not for another training run, which "
            "may move every number here."
        )
    for name in ordered_methods(results.methods):
        m = results.methods[name]
        if m.win_rate is not None:
            found += _win_rate_warnings(name, m.win_rate)
        if m.length_controlled_win_rate is not None:
            found += [f"{label(name)}: {w}." for w in m.length_controlled_win_rate.warnings]
        if m.terminated is not None and 1 - m.terminated > MANY_UNFINISHED:
            found.append(f"{label(name)}: {percent(1 - m.terminated)} of its completions were cut at the cap.")
    n = max((_prompts(m) for m in results.methods.values() if m.win_rate), default=None)
    if n is not None and n < FEW_PROMPTS:
        found.append(f"Only {n} prompts were judged: intervals are wide and small gains cannot be seen.")
    return found + _marker_warnings(results) + _parting_warnings(results) + _curve_warnings(results)


def _prompts(m: MethodResult) -> int:
    """Prompts judged, whatever the number of seeds that answered them."""
    spread = m.seeds.get("win_rate")
    return 0 if m.win_rate is None else m.win_rate.n // (len(spread.values) if spread else 1)
