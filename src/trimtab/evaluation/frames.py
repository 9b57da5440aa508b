"""Results as pandas frames, for notebooks. Numbers are in the metrics' own units: shares from 0 to 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.json_types import JsonObject

if TYPE_CHECKING:
    from pandas import DataFrame

    from trimtab.evaluation.results import Results


def methods_frame(results: Results) -> DataFrame:
    """A row for each method, and the opponent's last, by name. Columns: a metric's name; NAME_low and NAME_high are
    its 95 % interval; behaviours by theirs. NaN where a number is not known."""
    import pandas as pd  # half a second, for those who ask for it

    answered = dict(results.methods)
    if results.opponent is not None and results.opponent_result is not None:
        answered[results.opponent] = results.opponent_result
    rows: dict[str, JsonObject] = {}
    for name, result in answered.items():
        row = rows.setdefault(name, {})
        for metric, estimate in result.estimates.items():
            row[metric] = estimate.value
            if estimate.ci95 is not None:
                row[f"{metric}_low"], row[f"{metric}_high"] = estimate.ci95
        row |= result.behaviours
    frame = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="method"))
    return frame.astype(float)


def comparisons_frame(results: Results) -> DataFrame:
    """A row for each pair of methods and metric: a − b, its 95 % interval, p-value and Holm's correction of it."""
    import pandas as pd  # half a second, for those who ask for it

    columns = ["metric", "a", "b", "difference", "low", "high", "p_value", "p_holm", "n"]
    rows = [
        (c.metric, c.a, c.b, c.difference, *c.ci95, c.p_value, c.p_holm, c.n) for c in results.comparisons
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def curves_frame(results: Results) -> DataFrame:
    """A row for each logged step: stage, seed and part ("train" or "validation"), then the metrics as logged."""
    import pandas as pd  # half a second, for those who ask for it

    stages = dict.fromkeys([*results.curves, *(stage for by in results.other_curves.values() for stage in by)])
    rows = [
        {"stage": stage, "seed": seed, "part": part, **row}
        for stage in stages
        for seed, curves in results.curves_of(stage).items()
        for part, logged in (("train", curves.train), ("validation", curves.validation))
        for row in logged
    ]
    return pd.DataFrame(rows, columns=None if rows else ["stage", "seed", "part"])
