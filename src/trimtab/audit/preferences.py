"""What the preference data will teach: counts, lengths, duplicates, and the markers of markers.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from trimtab.audit.markers import Marker, find_markers, holds
from trimtab.audit.oddities import text_of_prompt
from trimtab.data.records import Record


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LengthQuantiles(_Model):
    """Quantiles 0.1, 0.5, 0.9, the mean and the maximum."""

    p10: float
    median: float
    p90: float
    mean: float
    maximum: float


class AuditReport(_Model):
    """Counts over all records; markers over `pairs_examined` of them, the most significant first.

    `chosen_longer_share` is in characters, of the pairs that differ (equal lengths are not longer).
    """

    records: int
    pairs: int
    duplicate_prompts: int
    duplicate_records: int
    identical_pairs: int
    empty_completions: int
    equal_scores: int
    chosen_longer_share: float | None
    lengths_words: dict[str, LengthQuantiles]
    lengths_characters: dict[str, LengthQuantiles]
    pairs_examined: int
    forms_tested: dict[str, int]
    markers: list[Marker]
    markers_of_rejected: list[Marker]
    amplification: dict[str, dict[str, float | None]] = {}


def quantiles(values: Sequence[int]) -> LengthQuantiles:
    """The quantiles of lengths, of which there must be one at least."""
    p10, median, p90 = (float(q) for q in np.quantile(values, [0.1, 0.5, 0.9]))
    return LengthQuantiles(p10=p10, median=median, p90=p90, mean=float(np.mean(values)), maximum=float(max(values)))


def _evenly(pairs: list[tuple[str, str]], limit: int) -> list[tuple[str, str]]:
    if len(pairs) <= limit:
        return pairs
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, limit).astype(int)]


def margin(sample: int, whole: int) -> float:
    """What a share in a sample is at most away from the whole's, 19 times of 20: 1.96 standard errors of a half,
    drawn without replacement."""
    return 1.96 * float(np.sqrt((whole - sample) / (4 * sample * (whole - 1)))) if sample < whole else 0.0


def audit(records: Iterable[Record], *, alpha: float = 0.05, top: int = 20, max_pairs: int = 5000) -> AuditReport:
    """Audit preference records; rows without two completions count in `records` only.

    n-grams of more than `max_pairs` pairs would not fit in memory: an even sample of that size is
    examined, and `pairs_examined` says so.
    """
    rows = list(records)
    both = [r for r in rows if len(r.completions) >= 2]
    pairs = [(r.completions[0], r.completions[-1]) for r in both]
    sides = {
        "prompt": [text_of_prompt(r) for r in rows],
        "chosen": [p[0] for p in pairs],
        "rejected": [p[1] for p in pairs],
    }
    examined = _evenly([p for p in pairs if p[0] != p[1]], max_pairs)
    markers, of_rejected, tested = find_markers(examined, alpha=alpha, top=top)
    longer = [np.sign(len(c) - len(r)) for c, r in pairs if c != r]
    whole = Counter((prompt, r.completions) for prompt, r in zip(sides["prompt"], rows, strict=True))
    return AuditReport(
        records=len(rows),
        pairs=len(pairs),
        duplicate_prompts=len(rows) - len(set(sides["prompt"])),
        duplicate_records=len(rows) - len(whole),
        identical_pairs=sum(c == r for c, r in pairs),
        empty_completions=sum(not text.strip() for r in rows for text in r.completions),
        equal_scores=sum(r.scores is not None and r.scores[0] == r.scores[-1] for r in both),
        chosen_longer_share=float(np.mean([s > 0 for s in longer])) if longer else None,
        lengths_words={k: quantiles([len(t.split()) for t in v]) for k, v in sides.items() if v},
        lengths_characters={k: quantiles([len(t) for t in v]) for k, v in sides.items() if v},
        pairs_examined=len(examined),
        forms_tested=tested,
        markers=markers,
        markers_of_rejected=of_rejected,
    )


def amplification(
    report: AuditReport, outputs: Mapping[str, Sequence[str]], *, top: int = 10
) -> dict[str, dict[str, float | None]]:
    """{marker text: {method: share of its outputs that hold the marker}}; None where there are none."""
    return {
        marker.text: {
            method: (sum(holds(t, marker) for t in texts) / len(texts) if texts else None)
            for method, texts in outputs.items()
        }
        for marker in report.markers[:top]
    }
