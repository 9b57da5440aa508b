"""The tables of a report that compare methods in pairs, and those of single training seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.catalogue import label
from trimtab.evaluation.estimate import SeedSpread
from trimtab.evaluation.metrics import METRICS, Metric, paired_metrics
from trimtab.evaluation.results import Comparison, Results
from trimtab.evaluation.verdict import clear
from trimtab.formats import NONE, interval_text, number, p_value, with_interval
from trimtab.report.layout import entries, seed_order
from trimtab.report.table import Table, Value, with_ends


def comparison_row(c: Comparison) -> list[str]:
    """One difference in words and numbers."""
    metric = METRICS[c.metric]
    return [
        metric.pair_title,
        f"{label(c.a)} − {label(c.b)}",
        with_interval(c.difference, c.ci95, metric.digits, metric.scale, sign=True),
        p_value(c.p_value),
        p_value(c.p_holm),
        NONE if c.n is None else str(c.n),
    ]


def ranking_table(results: Results) -> Table:
    """All methods on one scale, where there are more than three."""
    ends = [one.strength.ci95 for one in results.ranking]
    rows = [
        [label(one.name), with_interval(one.strength.value, one.strength.ci95, 2, sign=True), number(one.elo, 0)]
        for one in results.ranking
    ]
    records: list[dict[str, Value]] = [
        {"method": one.name, **with_ends("strength", one.strength.value, ci), "elo": one.elo}
        for one, ci in zip(results.ranking, ends, strict=True)
    ]
    note = (
        "Bradley-Terry over all pairs and prompts, by the judge's scores; a tie is half a win each way, and half a "
        "win each way is added to every pair. Strength: log-odds against an average one of these; brackets: 95 % "
        "interval over prompts, of one method, not of a difference: read those from the pairs."
    )
    header = ["Method", "Strength [95 %]", "Elo"]
    return Table("ranking", "All methods on one scale", header, rows, records, [note])


def comparisons_table(results: Results) -> Table:
    """Paired differences between methods."""
    records: list[dict[str, Value]] = []
    for c in results.comparisons:
        head: dict[str, Value] = {"metric": c.metric, "a": c.a, "b": c.b}
        tail: dict[str, Value] = {"p_value": c.p_value, "p_holm": c.p_holm, "n": c.n}
        records.append({**head, **with_ends("difference", c.difference, c.ci95), **tail, **_seed_record(c.seeds)})
    header = ["Metric", "Pair", "Difference [95 %]", "p", "p, Holm", "Prompts"]
    note = (
        "Paired over the prompts that both answered; p by sign flips, two-sided. Holm: over all pairs of a metric."
    )
    rows = [comparison_row(c) for c in results.comparisons]
    return Table("comparisons", "Paired differences between methods", header, rows, records, [note])


def pairs_table(results: Results) -> Table:
    """Every comparison at a glance: a row a pair, a column a metric."""
    metrics = [m for m in paired_metrics() if any(c.metric == m.name for c in results.comparisons)]
    compared = {(c.a, c.b, c.metric): c for c in results.comparisons}
    rows, records = [], []
    for a, b in dict.fromkeys((c.a, c.b) for c in results.comparisons):
        cells: list[str] = []
        record: dict[str, Value] = {"a": a, "b": b}
        for metric in metrics:
            c = compared.get((a, b, metric.name))
            digits, scale = min(metric.digits, 2), metric.scale
            text = NONE
            if c is not None:
                low, high = (number(x, digits, scale) for x in c.ci95)
                text = f"{number(c.difference, digits, scale, sign=True)} [{low}, {high}]"
            cells.append(text + (" *" if c is not None and clear(c) else ""))
            record |= with_ends(metric.name, c.difference if c else None, c.ci95 if c else None)
        rows.append([f"{label(a)} − {label(b)}", *cells])
        records.append(record)
    note = (
        "Paired differences with 95 % intervals. * clear: the interval excludes 0, and p after Holm's correction "
        "is below 0.05."
    )
    header = ["Pair", *(m.pair_title for m in metrics)]
    return Table("pairs", "Paired differences at a glance", header, rows, records, [note])


def _seed_record(s: SeedSpread | None) -> dict[str, Value]:
    if s is None:
        return {}
    values: dict[str, Value] = {f"seed_{seed}": v for seed, v in s.values.items()}
    return (
        values | with_ends("between_seeds", None, s.between_ci95) | with_ends("within_seeds", None, s.within_ci95)
    )


@dataclass(frozen=True)
class _BySeed:
    """What was trained with several seeds: one metric of a method, or of a pair of methods."""

    name: str
    shown: str
    metric: Metric
    title: str
    mean: float
    spread: SeedSpread
    is_difference: bool

    def row(self) -> list[str]:
        """As text, a cell a column."""
        digits, scale, sign = self.metric.digits, self.metric.scale, self.is_difference
        each = ", ".join(number(value, digits, scale, sign) for value in self.spread.values.values())
        intervals = [
            interval_text(ci, scale, digits, sign) for ci in (self.spread.between_ci95, self.spread.within_ci95)
        ]
        return [self.shown, self.title, number(self.mean, digits, scale, sign), each, *intervals]

    def record(self) -> dict[str, Value]:
        """As raw values."""
        return {"of": self.name, "metric": self.title, "mean": self.mean, **_seed_record(self.spread)}


def _by_seed(results: Results) -> Iterator[_BySeed]:
    for name, shown, m in entries(results):
        for metric in seed_order():
            estimate = m.estimates.get(metric.name)
            if estimate is not None and estimate.seeds is not None:
                values = estimate.seeds.values
                mean = sum(values.values()) / len(values)
                yield _BySeed(name, shown, metric, metric.title, mean, estimate.seeds, False)
    for c in results.comparisons:
        if c.seeds is not None:
            metric, shown = METRICS[c.metric], f"{label(c.a)} − {label(c.b)}"
            yield _BySeed(f"{c.a} - {c.b}", shown, metric, metric.pair_title, c.difference, c.seeds, True)


def seeds_table(results: Results) -> Table:
    """Each seed's number of the first headline metric that has any, and both intervals of their mean."""
    headlines = [metric for metric in paired_metrics() if metric.paired and metric.paired.headline]
    by_seed = {name for m in results.methods.values() for name, e in m.estimates.items() if e.seeds is not None}
    shown = next((metric for metric in headlines if metric.name in by_seed), headlines[-1])
    what = shown.paired.name.capitalize() if shown.paired else shown.title
    rows = [row for row in _by_seed(results) if row.metric.name == shown.name]
    return _seeds_table(results, "seeds", f"{what} by", rows, with_note=True)


def all_seeds_table(results: Results) -> Table:
    """The same of every metric."""
    return _seeds_table(results, "seeds_all", "Every number by", list(_by_seed(results)), with_note=False)


def _seeds_table(results: Results, name: str, what: str, rows: list[_BySeed], with_note: bool) -> Table:
    seeds = ", ".join(map(str, results.provenance.seeds))
    header = ["Method or pair", "Metric", "Mean", "By seed", "Over seeds, 95 %", "Over prompts, 95 %"]
    note = (
        f"Seeds {seeds}, in this order. Over seeds: Student's t of the seeds' numbers, for other training runs "
        "on these prompts. Over prompts: with these seeds. Elsewhere on this page an interval joins both, and "
        "holds both, so a gain counts only where both exclude 0. The one over seeds is of a single number, "
        "not corrected for how many there are."
    )
    notes = [note] if with_note else []
    caption = f"{what} training seed"
    return Table(name, caption, header, [row.row() for row in rows], [row.record() for row in rows], notes)
