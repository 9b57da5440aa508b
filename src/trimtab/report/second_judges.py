"""The tables of second judges: what others say of the same completions."""

from __future__ import annotations

from trimtab.catalogue import ordered_methods
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.results import Results, SecondJudge
from trimtab.formats import NONE, number, with_interval
from trimtab.report.layout import method_label
from trimtab.report.pair_tables import comparison_row
from trimtab.report.table import Table, Value, with_ends


def second_judges_table(results: Results) -> Table:
    """A row a method of each second judge: its win rate and its mean score, beside the judge's win rate."""
    rows: list[list[str]] = []
    records: list[dict[str, Value]] = []
    for judge in results.second_judges:
        for method in ordered_methods(judge.estimates):
            found, own = judge.estimates[method], results.methods.get(method)
            cells = [_cell(judge, method, name) for name in ("win_rate", "judge_score")]
            first = None if own is None else own.estimates.get("win_rate")
            beside = NONE if first is None else with_interval(first.value, first.ci95, 1, 100)
            rows.append([judge.name, method_label(results, method), *cells, beside])
            record: dict[str, Value] = {"judge": judge.name, "method": method}
            for name, estimate in found.items():
                record |= with_ends(name, estimate.value, estimate.ci95)
            records.append(record)
    header = ["Second judge", "Method", "Win rate, %", METRICS["judge_score"].title, "The judge's win rate, %"]
    notes = [_note(judge) for judge in results.second_judges]
    notes += ["No verdict follows from a second judge. Where it and the judge part, a gain is one of taste."]
    return Table("second_judges", "Second judges", header, rows, records, notes)


def second_judge_pairs_table(results: Results) -> Table:
    """Paired differences by each second judge."""
    rows = [[judge.name, *comparison_row(c)] for judge in results.second_judges for c in judge.comparisons]
    records: list[dict[str, Value]] = [
        {"judge": judge.name, "metric": c.metric, "a": c.a, "b": c.b}
        | with_ends("difference", c.difference, c.ci95)
        | {"p_value": c.p_value, "p_holm": c.p_holm, "n": c.n}
        for judge in results.second_judges
        for c in judge.comparisons
    ]
    header = ["Second judge", "Metric", "Pair", "Difference [95 %]", "p", "p, Holm", "Prompts"]
    note = "Holm: over all pairs of a metric and judge."
    return Table("second_judge_pairs", "Paired differences by second judges", header, rows, records, [note])


def _cell(judge: SecondJudge, method: str, metric: str) -> str:
    estimate, of = judge.estimates[method].get(metric), METRICS[metric]
    return NONE if estimate is None else with_interval(estimate.value, estimate.ci95, of.digits, of.scale)


def _note(judge: SecondJudge) -> str:
    parts = [f"{judge.name}: {judge.judge}."]
    if judge.optimised:
        parts.append("A method was trained on its scores.")
    if judge.accuracy is not None:
        parts.append(f"It agrees with {number(judge.accuracy, 1, 100)} % of its held-out preferences.")
    if judge.missing:
        parts.append(f"{judge.missing} of its {judge.asked} scores are missing.")
    return " ".join(parts)
