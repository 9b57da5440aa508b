"""The tables of a report that have a row a method, and the list of all tables. formats.py writes them to files."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.metrics import METRICS, Metric
from trimtab.evaluation.results import Results
from trimtab.formats import NONE, interval_text, number, with_interval
from trimtab.report.data_tables import (
    costs_table,
    defaults_table,
    markers_table,
    settings_table,
    sources_table,
    splits_table,
    words_table,
)
from trimtab.report.judge_tables import judge_table, null_judges_table, self_preference_table
from trimtab.report.layout import INSTRUCTIONS, LENGTHS, OTHER_BLEU, WIN_RATES, Column, entries, method_columns
from trimtab.report.pair_tables import all_seeds_table, comparisons_table, pairs_table, ranking_table, seeds_table
from trimtab.report.people_tables import agreement_table, length_agreement_table, people_table, voters_table
from trimtab.report.second_judges import second_judge_pairs_table, second_judges_table
from trimtab.report.table import Table, Value, with_ends
from trimtab.report.task_tables import task_metrics_table, task_pairs_table, tasks_table

WHERE_KNOWN = {"bleu_4", "perplexity", "bits_per_byte", "length", "terminated", "characters"}
"""Metrics that have a column only where some method has a number."""


READ = {
    ("win_rate",): "Win rate: ties count as half.",
    ("length_controlled_win_rate",): "At equal length: the length-controlled win rate.",
    ("perplexity", "bits_per_byte"): "Perplexity and bits per byte: of the chosen texts.",
    ("terminated",): "Ended: share that ended by itself, before the cap.",
}
"""How to read a column of methods, by the metrics of which one is there."""


def _method_record(name: str, m: MethodResult) -> dict[str, Value]:
    """Every metric of one method for CSV files; the win rates' counts stand behind them."""
    rates = [metric for metric in METRICS.values() if metric.path[0] == "win_rate"]
    counts = {field: getattr(m.win_counts, field) if m.win_counts else None for field in ("n", "ties", "missing")}
    record: dict[str, Value] = {"method": name}
    for metric in rates:
        record |= _metric_record(metric, m)
    record |= counts
    for metric in METRICS.values():
        if metric not in rates:
            record |= _metric_record(metric, m)
    return record


def _metric_record(metric: Metric, m: MethodResult) -> dict[str, Value]:
    column, estimate = metric.column or metric.name, m.estimates.get(metric.name)
    if metric.doubt != "interval":
        return {column: m.value(metric.name)}
    return with_ends(column, m.value(metric.name), None if estimate is None else estimate.ci95)


def methods_table(results: Results) -> Table:
    """One row a method: quality, likelihood, length."""
    known = {name for _, _, m in entries(results) for name in m.estimates}
    columns = [column for column in method_columns() if column.metric in known or column.metric not in WHERE_KNOWN]
    rows = [[shown, *(column.cell(m) for column in columns)] for _, shown, m in entries(results)]
    several_seeds = len(set(results.provenance.seeds)) > 1
    brackets = (
        "Means over training seeds. Brackets: 95 % interval over prompts and seeds together."
        if several_seeds
        else "Brackets: 95 % interval over prompts."
    )
    told = [text for names, text in READ.items() if known & set(names)]
    notes = [" ".join([brackets, *told])]
    measured = [m for _, _, m in entries(results)]
    if results.opponent_result is not None and "win_rate" in known:
        notes.append("The opponent has no win rate of its own: these are against it.")
    chosen = next((m.value("chosen_length") for m in measured if m.value("length") is not None), None)
    if chosen is not None:
        notes.append(f"The chosen texts have {chosen:.0f} tokens on average.")
    extrapolated = [shown for _, shown, m in entries(results) if m.length_effect and m.length_effect.extrapolated]
    if extrapolated:
        notes.append(f"At equal length extrapolated, or withheld: {', '.join(extrapolated)} (see the warnings).")
    signature = next((m.bleu_signature.signature for m in measured if m.bleu_signature), None)
    if signature:
        notes.append(f"BLEU: {signature}")
    records = [_method_record(name, m) for name, _, m in entries(results)]
    header = ["Method", *(column.header for column in columns)]
    return Table("methods", "Methods against the opponent", header, rows, records, notes)


def win_rates_table(results: Results) -> Table:
    """The three ways to count ties, what is missing, and its worst and best case."""
    rows, records = [], []
    for name, shown, m in entries(results):
        counts = m.win_counts
        if counts is None:
            continue
        low, high = counts.missing_bounds or (None, None)
        bounds = interval_text(counts.missing_bounds) if counts.missing else NONE
        rates = [column.cell(m) for column in WIN_RATES]
        bleu = [column.cell(m) for column in OTHER_BLEU]
        rows.append([shown, *rates, str(counts.n), str(counts.ties), str(counts.missing), bounds, *bleu])
        records.append({**_method_record(name, m), "missing_worst": low, "missing_best": high})
    header = ["Method", *(column.header for column in WIN_RATES), "Judged", "Ties", "Missing"]
    header += ["If all missing were lost or won, %", *(column.header for column in OTHER_BLEU)]
    return Table("win_rates", "Ties, missing scores, and BLEU of other orders", header, rows, records)


def _of_methods(
    name: str, title: str, measured: Sequence[tuple[str, str, MethodResult]], columns: Sequence[Column], note: str
) -> Table:
    """A row of these columns for each method that was measured: (name, label, result)."""
    rows = [[shown, *(column.cell(m) for column in columns)] for _, shown, m in measured]
    records = [_method_record(method, m) for method, _, m in measured]
    return Table(name, title, ["Method", *(column.header for column in columns)], rows, records, [note])


def lengths_table(results: Results) -> Table:
    """Lengths, excess over the chosen completion, and correctness: what a shorter answer costs."""
    measured = [
        (name, shown, m)
        for name, shown, m in entries(results)
        if "length" in m.estimates and m.estimates.keys() & {"excess_length", "correctness"}
    ]
    note = (
        "Excess: mean of max(0, tokens − tokens of the chosen completion) over prompts. Correctness: the judge's "
        "own, on its own scale (the sandbox's: −1 wrong … 1 right). Brackets: 95 % interval."
    )
    return _of_methods("lengths", "Length and correctness", measured, LENGTHS, note)


def instructions_table(results: Results) -> Table:
    """IFEval's four accuracies, where the test prompts have instructions that a program checks."""
    measured = [(name, shown, m) for name, shown, m in entries(results) if m.instructions]
    note = (
        "Share of prompts of which all instructions hold, and share of all instructions that hold. Loose: also "
        "without the first line, the last line or asterisks. Brackets: 95 % interval; prompts are resampled whole."
    )
    return _of_methods("instructions", "Instructions that hold", measured, INSTRUCTIONS, note)


def instruction_kinds_table(results: Results) -> Table:
    """The share of each kind of instruction that holds, strictly; the loose ones are in the CSV file."""
    measured = [(name, shown, m) for name, shown, m in entries(results) if m.instructions]
    kinds = {kind: accuracy.n for _, _, m in measured for kind, accuracy in m.instructions.items()}
    rows = [[kind, str(n), *(_kind_cell(m, kind) for _, _, m in measured)] for kind, n in sorted(kinds.items())]
    records: list[dict[str, Value]] = [
        {
            "method": name,
            "instruction": kind,
            "n": accuracy.n,
            **with_ends("strict", accuracy.strict.value, accuracy.strict.ci95),
            **with_ends("loose", accuracy.loose.value, accuracy.loose.ci95),
        }
        for name, _, m in measured
        for kind, accuracy in m.instructions.items()
    ]
    header = ["Instruction", "n", *(shown for _, shown, _ in measured)]
    note = "Strict, % with 95 % interval. These are many numbers of few prompts each: some stand out by chance."
    return Table("instruction_kinds", "By kind of instruction", header, rows, records, [note])


def _kind_cell(m: MethodResult, kind: str) -> str:
    accuracy = m.instructions.get(kind)
    return NONE if accuracy is None else with_interval(accuracy.strict.value, accuracy.strict.ci95, 0, 100)


def behaviour_label(name: str) -> str:
    """ "repeated_ngrams" → "Repeated n-grams"."""
    return name.replace("_", " ").replace("ngram", "n-gram").capitalize()


def behaviours_table(results: Results) -> Table:
    """Behaviours in per cent of completions."""
    described = [entry for entry in entries(results) if entry[2].behaviours]
    names = list(dict.fromkeys(k for _, _, m in described for k in m.behaviours))
    rows = [[shown, *(number(m.behaviours.get(k), 1, 100) for k in names)] for _, shown, m in described]
    records = [{"method": name, **{k: m.behaviours.get(k) for k in names}} for name, _, m in described]
    header = ["Method", *(behaviour_label(k) for k in names)]
    return Table("behaviours", "Behaviours, % of completions", header, rows, records)


def all_tables(results: Results) -> dict[str, Table]:
    """Tables that have rows, by name."""
    makers = (
        methods_table, win_rates_table, pairs_table, comparisons_table, ranking_table, seeds_table, all_seeds_table,
        second_judges_table, second_judge_pairs_table, lengths_table, judge_table, self_preference_table,
        null_judges_table, people_table, agreement_table, length_agreement_table, voters_table, instructions_table,
        instruction_kinds_table, tasks_table, task_pairs_table, task_metrics_table, behaviours_table, splits_table,
        words_table, markers_table, sources_table, settings_table, defaults_table, costs_table,
    )  # fmt: skip
    tables = [make(results) for make in makers]
    return {t.name: t for t in tables if t.rows}
