"""Which metric stands in which table and column, in the order that reads best.

A metric that none of the tables of methods names stands at the end of the first; nothing has to be done for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.metrics import METRICS, Metric
from trimtab.evaluation.results import Results
from trimtab.formats import with_interval


@dataclass(frozen=True)
class Column:
    """One metric in one table. title, digits: the metric's own unless said. interval: whether it is shown."""

    metric: str
    title: str = ""
    digits: int | None = None
    interval: bool = True

    @property
    def header(self) -> str:
        """What stands at its top."""
        return self.title or METRICS[self.metric].title

    def cell(self, result: MethodResult) -> str:
        """One method's number, with its interval where it has one."""
        metric, estimate = METRICS[self.metric], result.estimates.get(self.metric)
        digits = metric.digits if self.digits is None else self.digits
        ci = estimate.ci95 if estimate is not None and self.interval else None
        return with_interval(result.value(self.metric), ci, digits, metric.scale)


METHODS = (
    Column("win_rate"),
    Column("length_controlled_win_rate"),
    Column("judge_score", digits=2),
    Column("bleu_4"),
    Column("perplexity"),
    Column("bits_per_byte"),
    Column("length", "Tokens, mean", digits=0),
    Column("terminated"),
)
WIN_RATES = (
    Column("win_rate", "Ties as half, %", interval=False),
    Column("win_rate_strict"),
    Column("win_rate_ties_as_wins"),
)
OTHER_BLEU = (Column("bleu_1"), Column("bleu_2"))
LENGTHS = (
    Column("length", "Tokens, mean"),
    Column("length_median"),
    Column("excess_length", "Excess over chosen, tokens"),
    Column("terminated"),
    Column("correctness"),
)
INSTRUCTIONS = (
    Column("prompt_level_strict_acc"),
    Column("inst_level_strict_acc"),
    Column("prompt_level_loose_acc"),
    Column("inst_level_loose_acc"),
)
SEEDS = (
    "win_rate", "judge_score", "length", "excess_length", "correctness",
    "length_controlled_win_rate", "perplexity", "bits_per_byte", "bleu_4", "terminated",
)  # fmt: skip
"""The order of one method's numbers by training seed; others come after them."""


def method_columns() -> list[Column]:
    """METHODS, and what no table names. What only stands beside another metric needs a place of its own."""
    named = {column.metric for column in (*METHODS, *WIN_RATES, *OTHER_BLEU, *LENGTHS, *INSTRUCTIONS)}
    others = [m.name for m in METRICS.values() if m.name not in named and m.doubt != "none"]
    return [*METHODS, *(Column(name) for name in others)]


def seed_order() -> list[Metric]:
    """Metrics as the table of seeds lists them."""
    return [METRICS[name] for name in SEEDS] + [m for m in METRICS.values() if m.name not in SEEDS]


def entries(results: Results) -> list[tuple[str, str, MethodResult]]:
    """(name, label, result) of every method, the opponent last, unless it is one of them."""
    rows = [(m, method_label(results, m), results.methods[m]) for m in ordered_methods(results.methods)]
    if results.opponent_result is not None and results.opponent_method is None:
        name = results.opponent or "opponent"
        rows.append((name, f"{name} (opponent)", results.opponent_result))
    return rows


def method_label(results: Results, method: str) -> str:
    """A method's label, which says where it is the opponent itself."""
    return label(method) + (" (opponent)" if method == results.opponent_method else "")
