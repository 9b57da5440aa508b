"""Results as they are compared: without the minute at which they were gathered."""

from __future__ import annotations

from trimtab.evaluation.results import Results


def but_for_the_date(results: Results) -> Results:
    provenance = results.provenance.model_copy(update={"date": None})
    return results.model_copy(update={"provenance": provenance})
