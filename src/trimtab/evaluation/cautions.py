"""What a reader must know before any number: warnings that follow from the results."""

from __future__ import annotations

from trimtab.catalogue import label, optimising_methods, ordered_methods
from trimtab.evaluation.judge_card import JudgeCard
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.results import Results
from trimtab.evaluation.self_preference import PEOPLE
from trimtab.evaluation.verdict import lead, stage_paths, survives
from trimtab.evaluation.win_rate import WinCounts
from trimtab.formats import interval_text, number, percent

FEW_PROMPTS = 100
MANY_TIES = 0.2
MANY_FLIPS = 0.3
OFTEN_THE_SAME = 0.9
MANY_UNFINISHED = 0.1
AMPLIFIED_BY = 1.5
AMPLIFIED_SHARE = 0.05


def warnings_of(results: Results) -> list[str]:
    """What a reader must know before any number."""
    warnings: list[str] = []
    if results.judge is not None and results.judge == results.training_reward:
        warnings.append(
            f"The judge, {results.judge}, is also the training reward: a win rate judged by what "
            "was optimised shows little."
        )
    seeds = len(set(results.provenance.seeds))
    if seeds == 2:
        warnings.append(
            "Two seeds: what another seed would change is told from one difference, so intervals are very wide."
        )
    if seeds == 1:
        warnings.append(
            "One training seed: the intervals hold for other prompts, not for another training run, which "
            "may move every number here."
        )
    for name in ordered_methods(results.methods):
        m = results.methods[name]
        if m.win_counts is not None:
            warnings += _win_rate_warnings(name, m, m.win_counts)
        if m.length_effect is not None:
            warnings += [f"{label(name)}: {warning}." for warning in m.length_effect.warnings]
        ended = m.value("terminated")
        if ended is not None and 1 - ended > MANY_UNFINISHED:
            warnings.append(f"{label(name)}: {percent(1 - ended)} of its completions were cut at the cap.")
    n = max((_prompts(m, m.win_counts) for m in results.methods.values() if m.win_counts), default=None)
    if n is not None and n < FEW_PROMPTS:
        warnings.append(f"Only {n} prompts were judged: intervals are wide and small gains cannot be seen.")
    warnings += _judge_warnings(results.judge_card) if results.judge_card is not None else []
    return warnings + _marker_warnings(results) + _parting_warnings(results) + _curve_warnings(results)


def _judge_warnings(card: JudgeCard) -> list[str]:
    """Of a judge that contradicts itself, or that padding wins."""
    warnings = []
    if card.flips is not None and card.flips.value > MANY_FLIPS:
        share = percent(card.flips.value)
        warnings.append(f"The judge contradicts itself on {share} of the pairs in the other order: these are ties.")
    if card.padded is not None and card.padded.ci95 is not None and card.padded.ci95[0] > 0.5:
        share = percent(card.padded.value)
        warnings.append(
            f"The judge prefers {share} of answers to themselves once words that say nothing are behind them: "
            "longer answers may gain by no more than that."
        )
    for one in card.self_preference:
        if one.excess.ci95 is not None and one.excess.ci95[0] > 0:
            more, who = number(one.excess.value, 1, 100), "people do" if one.by == PEOPLE else f"{one.by} does"
            warnings.append(
                f"The judge gives {label(one.own)}, of its own family, {more} points of win rate more than {who} "
                f"on the same {one.excess.n} prompts (95 % interval {interval_text(one.excess.ci95)})."
            )
    if card.repeated is not None and card.repeated.value < OFTEN_THE_SAME:
        share = percent(1 - card.repeated.value)
        warnings.append(f"Asked once more, the judge names another winner on {share} of the pairs.")
    return warnings


def _prompts(m: MethodResult, counts: WinCounts) -> int:
    """Prompts judged, whatever the number of seeds that answered them."""
    rate = m.estimates.get("win_rate")
    return counts.n // (len(rate.seeds.values) if rate and rate.seeds else 1)


def _win_rate_warnings(name: str, m: MethodResult, counts: WinCounts) -> list[str]:
    warnings = []
    if counts.missing:
        text = (
            f"{label(name)}: {counts.missing} of {counts.n + counts.missing} prompts have no score and are left out"
        )
        if counts.missing_bounds is not None:
            bounds = interval_text(counts.missing_bounds)
            text += f"; had all of them been lost or won, its win rate would be {bounds} %"
            if _turns(m, counts):
                text += ": enough to turn the result"
        warnings.append(text + ".")
    if counts.n and counts.ties / counts.n > MANY_TIES:
        warnings.append(
            f"{label(name)}: {percent(counts.ties / counts.n)} of its prompts are ties, counted as half."
        )
    return warnings


def _turns(m: MethodResult, counts: WinCounts) -> bool:
    """Whether the missing prompts could undo a lead or a deficit that the interval calls real."""
    if counts.missing_bounds is None or not survives(counts.p_holm):
        return False
    low, high = counts.missing_bounds
    ahead = lead(m.estimates.get("win_rate"))
    return (ahead > 0 and low <= 0.5) or (ahead < 0 and high >= 0.5)


def _parting_warnings(results: Results) -> list[str]:
    return [
        f"{label(stage)}: training reward and judge parted, which is reward hacking: {'; '.join(paths)}. "
        "That is the end of training; the model that was kept may be an earlier one."
        for stage in optimising_methods()
        if (paths := stage_paths(results, stage, "parted"))
    ]


def _marker_warnings(results: Results) -> list[str]:
    """One line for all markers and methods: the same marker is the same news whoever repeats it."""
    audit = results.audit
    repeated = [
        f'"{marker.text}" ({percent(marker.chosen_share)} of the chosen, {percent(marker.rejected_share)} of the '
        f"rejected texts) is in {', '.join(f'{percent(rate)} of {label(name)}' for name, rate in rates.items())}"
        for marker in (audit.markers if audit is not None else [])
        if marker.significant and (rates := _amplifying(results, marker.text, marker.chosen_share))
    ]
    return [f"Markers of the data that models repeat oftener: {'; '.join(repeated)}."] if repeated else []


def _amplifying(results: Results, marker: str, chosen_share: float) -> dict[str, float]:
    """The methods that say a marker much oftener than the chosen texts do, with the share of their outputs."""
    rates = results.audit.amplification.get(marker, {}) if results.audit is not None else {}
    least = max(AMPLIFIED_SHARE, AMPLIFIED_BY * chosen_share)
    known = {name: rates.get(name) for name in ordered_methods(results.methods)}
    return {name: rate for name, rate in known.items() if rate is not None and rate >= least}


def _curve_warnings(results: Results) -> list[str]:
    warnings = []
    for stage in results.curves:
        rows = [row for curves in results.curves_of(stage).values() for row in [*curves.train, *curves.validation]]
        bad = sum(any(k.endswith("loss") and v is None for k, v in row.items()) for row in rows)
        if bad:
            warnings.append(f"{label(stage)}: the loss is not a number in {bad} logged rows.")
    return warnings
