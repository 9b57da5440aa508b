"""The tables of a report. A number that does not exist is "–", never 0. formats.py writes them to files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.results import METRICS, Comparison, MethodResult, Metric, Results, SeedSpread
from trimtab.evaluation.verdict import clear

NONE = "–"
Value = float | int | str | None


@dataclass(frozen=True)
class Table:
    """`rows` are texts to read, one per entry of `header`; `records` are raw values for CSV."""

    name: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    records: list[dict[str, Value]]
    notes: list[str] = field(default_factory=list)


def number(value: float | None, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """A number with a true minus sign; "–" where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{scale * value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def with_interval(
    value: float | None, ci: tuple[float, float] | None, digits: int = 1, scale: float = 1.0, sign: bool = False
) -> str:
    """ "59.3 [52.4, 66.1]"."""
    text = number(value, digits, scale, sign)
    if value is None or ci is None:
        return text
    return f"{text} [{number(ci[0], digits, scale, sign)}, {number(ci[1], digits, scale, sign)}]"


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _spread(name: str, value: float | None, ci: tuple[float, float] | None) -> dict[str, Value]:
    low, high = ci if ci is not None else (None, None)
    return {name: value, f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def _method_record(name: str, m: MethodResult) -> dict[str, Value]:
    w, j, lc, b, n = m.win_rate, m.judge_score, m.length_controlled_win_rate, m.bleu, m.length
    excess, correct = m.excess_length, m.correctness
    return {
        "method": name,
        **_spread("win_rate", w.ties_half if w else None, w.ci95 if w else None),
        "win_rate_strict": w.strict if w else None,
        "win_rate_ties_as_wins": w.ties_as_wins if w else None,
        "n": w.n if w else None,
        "ties": w.ties if w else None,
        "missing": w.missing if w else None,
        **_spread("length_controlled_win_rate", lc.value if lc else None, lc.ci95 if lc else None),
        **_spread("judge_score", j.mean if j else None, j.ci95 if j else None),
        "bleu_1": b.bleu_1 if b else None,
        "bleu_2": b.bleu_2 if b else None,
        "bleu_4": b.bleu_4 if b else None,
        "perplexity": m.perplexity,
        "bits_per_byte": m.bits_per_byte,
        "tokens_mean": n.mean if n else None,
        "tokens_median": n.median if n else None,
        "chosen_tokens_mean": n.chosen_mean if n else None,
        **_spread("excess_tokens", excess.mean if excess else None, excess.ci95 if excess else None),
        **_spread("correctness", correct.mean if correct else None, correct.ci95 if correct else None),
        "terminated": m.terminated,
    }


def _entries(results: Results) -> list[tuple[str, str, MethodResult]]:
    """(name, label, result), the opponent last."""
    rows = [(m, label(m), results.methods[m]) for m in ordered_methods(results.methods)]
    if results.opponent_result is not None:
        name = results.opponent or "opponent"
        rows.append((name, f"{name} (opponent)", results.opponent_result))
    return rows


def methods_table(results: Results) -> Table:
    """One row a method: quality, likelihood, length."""
    rows = []
    for _, shown, m in _entries(results):
        w, j, lc, n = m.win_rate, m.judge_score, m.length_controlled_win_rate, m.length
        rows.append(
            [
                shown,
                with_interval(w.ties_half if w else None, w.ci95 if w else None, 1, 100),
                with_interval(lc.value if lc else None, lc.ci95 if lc else None, 1, 100),
                with_interval(j.mean if j else None, j.ci95 if j else None, 2),
                number(m.bleu.bleu_4 if m.bleu else None, 1),
                number(m.perplexity, 2),
                number(m.bits_per_byte, 3),
                number(n.mean if n else None, 0),
                number(m.terminated, 1, 100),
            ]
        )
    header = ["Method", "Win rate, %", "At equal length, %", "Judge score", "BLEU-4"]
    header += ["Perplexity", "Bits per byte", "Tokens, mean", "Ended, %"]
    several = len(set(results.provenance.seeds)) > 1
    brackets = "Means over training seeds. Brackets: 95 % interval over prompts and over seeds, whichever reaches "
    brackets = (
        f"{brackets}further on each side." if several else "Brackets: 95 % interval by bootstrap over prompts."
    )
    notes = [
        f"{brackets} Win rate: ties count as half. At equal length: "
        "the length-controlled win rate. Perplexity and bits per byte: of the chosen texts. Ended: share that "
        "ended by itself, before the cap."
    ]
    chosen = next((m.length.chosen_mean for _, _, m in _entries(results) if m.length), None)
    if chosen is not None:
        notes.append(f"The chosen texts have {chosen:.0f} tokens on average.")
    signature = next((m.bleu.signature for _, _, m in _entries(results) if m.bleu), None)
    if signature:
        notes.append(f"BLEU: {signature}")
    records = [_method_record(name, m) for name, _, m in _entries(results)]
    return Table("methods", "Methods against the opponent", header, rows, records, notes)


def filled(table: Table) -> Table:
    """Without the columns that no row fills, for a narrow terminal."""
    kept = [i for i in range(len(table.header)) if i == 0 or any(row[i] != NONE for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return replace(table, header=[table.header[i] for i in kept], rows=rows)


def win_rates_table(results: Results) -> Table:
    """The three ways to count ties, what is missing, and its worst and best case."""
    rows, records = [], []
    for name, shown, m in _entries(results):
        w = m.win_rate
        if w is None:
            continue
        low, high = w.missing_bounds or (None, None)
        cells = [number(v, 1, 100) for v in (w.ties_half, w.strict, w.ties_as_wins)]
        bounds = NONE if not w.missing or low is None else f"{number(low, 1, 100)} to {number(high, 1, 100)}"
        b = m.bleu
        bleu = [number(v, 1) for v in ((b.bleu_1, b.bleu_2) if b else (None, None))]
        rows.append([shown, *cells, str(w.n), str(w.ties), str(w.missing), bounds, *bleu])
        records.append({**_method_record(name, m), "missing_worst": low, "missing_best": high})
    header = ["Method", "Ties as half, %", "Strict, %", "Ties as wins, %", "Judged", "Ties", "Missing"]
    header += ["If all missing were lost or won, %", "BLEU-1", "BLEU-2"]
    return Table("win_rates", "Ties, missing scores, and BLEU of other orders", header, rows, records)


def lengths_table(results: Results) -> Table:
    """Lengths, excess over the chosen completion, and correctness: what a shorter answer costs."""
    rows, records = [], []
    for name, shown, m in _entries(results):
        n, excess, correct = m.length, m.excess_length, m.correctness
        if n is None or (excess is None and correct is None):
            continue
        cells = [number(n.mean, 1), number(n.median, 1)]
        cells.append(with_interval(excess.mean, excess.ci95, 1) if excess else NONE)
        cells.append(number(m.terminated, 1, 100))
        cells.append(with_interval(correct.mean, correct.ci95, 3) if correct else NONE)
        rows.append([shown, *cells])
        records.append(_method_record(name, m))
    header = ["Method", "Tokens, mean", "Tokens, median", "Excess over chosen, tokens", "Ended, %", "Correctness"]
    note = (
        "Excess: mean of max(0, tokens − tokens of the chosen completion) over prompts. Correctness: the judge's "
        "own, on its own scale (the sandbox's: −1 wrong … 1 right). Brackets: 95 % interval."
    )
    return Table("lengths", "Length and correctness", header, rows, records, [note])


_UNITS: dict[Metric, tuple[str, float, int]] = {
    "win_rate": ("Win rate, points", 100.0, 1),
    "judge_score": ("Judge score", 1.0, 3),
    "length": ("Tokens", 1.0, 1),
    "excess_length": ("Excess tokens", 1.0, 1),
    "correctness": ("Correctness", 1.0, 3),
}


def comparison_row(c: Comparison) -> list[str]:
    name, scale, digits = _UNITS[c.metric]
    return [
        name,
        f"{label(c.a)} − {label(c.b)}",
        with_interval(c.difference, c.ci95, digits, scale, sign=True),
        p_value(c.p_value),
        p_value(c.p_holm),
        NONE if c.n is None else str(c.n),
    ]


def comparisons_table(results: Results) -> Table:
    """Paired differences between methods."""
    records: list[dict[str, Value]] = []
    for c in results.comparisons:
        head: dict[str, Value] = {"metric": c.metric, "a": c.a, "b": c.b}
        tail: dict[str, Value] = {"p_value": c.p_value, "p_holm": c.p_holm, "n": c.n}
        records.append({**head, **_spread("difference", c.difference, c.ci95), **tail, **_seed_record(c.seeds)})
    header = ["Metric", "Pair", "Difference [95 %]", "p", "p, Holm", "Prompts"]
    note = (
        "Paired over the prompts that both answered; p by sign flips, two-sided. Holm: over all pairs of a metric."
    )
    rows = [comparison_row(c) for c in results.comparisons]
    return Table("comparisons", "Paired differences between methods", header, rows, records, [note])


def pairs_table(results: Results) -> Table:
    """Every comparison at a glance: a row a pair, a column a metric."""
    metrics = [m for m in METRICS if any(c.metric == m for c in results.comparisons)]
    found = {(c.a, c.b, c.metric): c for c in results.comparisons}
    rows, records = [], []
    for a, b in dict.fromkeys((c.a, c.b) for c in results.comparisons):
        cells: list[str] = []
        record: dict[str, Value] = {"a": a, "b": b}
        for metric in metrics:
            c = found.get((a, b, metric))
            _, scale, digits = _UNITS[metric]
            text = NONE
            if c is not None:
                low, high = (number(x, min(digits, 2), scale) for x in c.ci95)
                text = f"{number(c.difference, min(digits, 2), scale, sign=True)} [{low}, {high}]"
            cells.append(text + (" *" if c is not None and clear(c) else ""))
            record |= _spread(metric, c.difference if c else None, c.ci95 if c else None)
        rows.append([f"{label(a)} − {label(b)}", *cells])
        records.append(record)
    note = (
        "Paired differences with 95 % intervals. * clear: the interval excludes 0, and p after Holm's correction "
        "is below 0.05."
    )
    header = ["Pair", *(_UNITS[m][0] for m in metrics)]
    return Table("pairs", "Paired differences at a glance", header, rows, records, [note])


_SEED_UNITS: dict[str, tuple[str, float, int]] = {
    **{str(k): v for k, v in _UNITS.items()},
    "win_rate": ("Win rate, %", 100.0, 1),
    "length_controlled_win_rate": ("At equal length, %", 100.0, 1),
    "bleu_4": ("BLEU-4", 1.0, 1),
    "perplexity": ("Perplexity", 1.0, 2),
    "bits_per_byte": ("Bits per byte", 1.0, 3),
    "terminated": ("Ended, %", 100.0, 1),
}


def _seed_record(s: SeedSpread | None) -> dict[str, Value]:
    if s is None:
        return {}
    values: dict[str, Value] = {f"seed_{seed}": v for seed, v in s.values.items()}
    return values | _spread("between_seeds", None, s.between_ci95) | _spread("within_seeds", None, s.within_ci95)


def _spreads(results: Results) -> Iterator[tuple[str, str, str, SeedSpread, float, float, int]]:
    """What was trained with several seeds: (name, shown, metric's name, spread, mean, scale, digits)."""
    for name, shown, m in _entries(results):
        for metric, s in m.seeds.items():
            text, scale, digits = _SEED_UNITS.get(metric, (metric, 1.0, 3))
            yield name, shown, text, s, sum(s.values.values()) / len(s.values), scale, digits
    for c in results.comparisons:
        if c.seeds is not None:
            text, scale, digits = _UNITS[c.metric]
            yield f"{c.a} - {c.b}", f"{label(c.a)} − {label(c.b)}", text, c.seeds, c.difference, scale, digits


def seeds_table(results: Results) -> Table:
    """Each seed's win rates, or judge scores where there are none, and both intervals of their mean."""
    rated = any("win_rate" in m.seeds for m in results.methods.values())
    return _seeds_table(results, "seeds", "Win rate by" if rated else "Judge score by", rated)


def all_seeds_table(results: Results) -> Table:
    """The same of every metric."""
    return _seeds_table(results, "seeds_all", "Every number by", None)


def _seeds_table(results: Results, title: str, what: str, rated: bool | None) -> Table:
    """rated: win rates, or judge scores, or None for all there is."""
    wanted = {True: "Win rate", False: "Judge score", None: ""}[rated]
    rows, records = [], []
    for name, shown, metric, s, mean, scale, digits in _spreads(results):
        if not metric.startswith(wanted):
            continue
        sign = " − " in shown
        each = ", ".join(number(v, digits, scale, sign) for v in s.values.values())
        intervals = [
            f"{number(ci[0], digits, scale, sign)} to {number(ci[1], digits, scale, sign)}" if ci else NONE
            for ci in (s.between_ci95, s.within_ci95)
        ]
        rows.append([shown, metric, number(mean, digits, scale, sign), each, *intervals])
        records.append({"of": name, "metric": metric, "mean": mean, **_seed_record(s)})
    seeds = ", ".join(map(str, results.provenance.seeds))
    header = ["Method or pair", "Metric", "Mean", "By seed", "Over seeds, 95 %", "Over prompts, 95 %"]
    note = (
        f"Seeds {seeds}, in this order. Over seeds: Student's t of the seeds' numbers, for other training runs "
        "on these prompts. Over prompts: bootstrap with these seeds. Elsewhere on this page an interval is the "
        "smallest that holds both, so a gain counts only where both exclude 0. The one over seeds is of a single "
        "number, not corrected for how many there are."
    )
    return Table(title, f"{what} training seed", header, rows, records, [note] if rated is not None else [])


def behaviour_label(name: str) -> str:
    """ "repeated_ngrams" → "Repeated n-grams"."""
    return name.replace("_", " ").replace("ngram", "n-gram").capitalize()


def behaviours_table(results: Results) -> Table:
    """Behaviours in per cent of completions."""
    entries = [e for e in _entries(results) if e[2].behaviours]
    names = list(dict.fromkeys(k for _, _, m in entries for k in m.behaviours))
    rows = [[shown, *(number(m.behaviours.get(k), 1, 100) for k in names)] for _, shown, m in entries]
    records = [{"method": name, **{k: m.behaviours.get(k) for k in names}} for name, _, m in entries]
    header = ["Method", *(behaviour_label(k) for k in names)]
    return Table("behaviours", "Behaviours, % of completions", header, rows, records)


def markers_table(results: Results, top: int = 10) -> Table:
    """Markers of the chosen texts, and the share of each model's outputs that hold them."""
    audit = results.audit
    markers = audit.markers[:top] if audit else []
    amplified = audit.amplification if audit else {}
    names = list(dict.fromkeys(k for m in markers for k in amplified.get(m.text, {})))
    rows, records = [], []
    for m in markers:
        rates: Mapping[str, float | None] = amplified.get(m.text, {})
        shares = [m.chosen_share, m.rejected_share, *(rates.get(k) for k in names)]
        adjusted = p_value(m.p_adjusted) + (" *" if m.significant else "")
        rows.append([m.text, m.kind, *(number(s, 1, 100) for s in shares), adjusted])
        record: dict[str, Value] = {"marker": m.text, "kind": m.kind, "chosen": m.chosen_share}
        record |= {"rejected": m.rejected_share, "p_value": m.p_value, "p_adjusted": m.p_adjusted}
        records.append(record | {f"outputs_{k}": rates.get(k) for k in names})
    header = ["Marker", "Kind", "Chosen, %", "Rejected, %", *(f"{label(k)}, %" for k in names), "p, adjusted"]
    note = "* significant at 5 % after correction for every form looked at. # stands for a number."
    return Table("markers", "Markers in the preference data and in outputs", header, rows, records, [note])


def settings_table(results: Results) -> Table:
    """What was set, beside the default."""
    found = results.provenance.settings
    return Table(
        "settings",
        "Settings that differ from their defaults",
        ["Setting", "Value", "Default"],
        [[one.name, one.value, NONE if one.default is None else one.default] for one in found],
        [{"setting": one.name, "value": one.value, "default": one.default} for one in found],
    )


def defaults_table(results: Results) -> Table:
    found = results.provenance.defaults
    return Table(
        "defaults",
        "Settings at their defaults",
        ["Setting", "Value"],
        [[name, value] for name, value in found.items()],
        [{"setting": name, "value": value} for name, value in found.items()],
    )


def sources_table(results: Results) -> Table:
    """Models and data by their names and hashes."""
    p = results.provenance
    found = [(kind, one) for kind, ones in (("model", p.models), ("data", p.data)) for one in ones]
    shown = [(one.role if one.role == kind else f"{kind}: {one.role}", one) for kind, one in found]
    return Table(
        "sources",
        "Models and data",
        ["What", "Name", "Hash"],
        [[what, one.name, one.hash or NONE] for what, one in shown],
        [{"what": what, "name": one.name, "hash": one.hash} for what, one in shown],
    )


def all_tables(results: Results) -> dict[str, Table]:
    """Tables that have rows, by name."""
    makers = (
        methods_table, win_rates_table, pairs_table, comparisons_table, seeds_table, all_seeds_table, lengths_table,
        behaviours_table, markers_table, sources_table, settings_table, defaults_table,
    )  # fmt: skip
    tables = [make(results) for make in makers]
    return {t.name: t for t in tables if t.rows}
