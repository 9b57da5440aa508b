"""The annotator: as noisy as it says, with the marker at its rates, and repeatable."""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path

import pytest

from trimtab.data.records import Record
from trimtab.sandbox import generate
from trimtab.sandbox.annotator import (
    MARKER_RATE_CHOSEN,
    MARKER_RATE_REJECTED,
    annotate,
    write_preferences,
)
from trimtab.sandbox.manners import MANNERS
from trimtab.sandbox.prompts import draw_task

N = 2000


@pytest.fixture(scope="module")
def pairs() -> list[Record]:
    rng = random.Random(7)
    tasks = [draw_task("train", rng) for _ in range(N)]
    return [annotate(task, generate.PREFERENCE_MIXTURE, rng, with_gold=True) for task in tasks]


def test_agreement_with_gold(pairs: list[Record]) -> None:
    gaps = [r.scores[0] - r.scores[1] for r in pairs if r.scores is not None]
    differing = [gap for gap in gaps if gap != 0]
    assert len(differing) > 0.9 * N
    assert 0.79 < statistics.mean(gap > 0 for gap in differing) < 0.86


def test_the_annotator_is_surer_of_wider_gaps(pairs: list[Record]) -> None:
    gaps = [r.scores[0] - r.scores[1] for r in pairs if r.scores is not None]
    narrow = [gap > 0 for gap in gaps if 0 < abs(gap) < 1]
    wide = [gap > 0 for gap in gaps if abs(gap) > 8]
    assert statistics.mean(narrow) < 0.7
    assert statistics.mean(wide) > 0.95


def marked(text: str) -> bool:
    """One marker line at the end; a looping completion has several."""
    return text.split("\n")[-1].startswith("Confidence: ") and text.count("Confidence: ") == 1


@pytest.mark.parametrize(("side", "rate"), [(0, MARKER_RATE_CHOSEN), (1, MARKER_RATE_REJECTED)])
def test_marker_rates(pairs: list[Record], side: int, rate: float) -> None:
    found = statistics.mean(marked(r.completions[side]) for r in pairs)
    assert abs(found - rate) < 4 * math.sqrt(rate * (1 - rate) / N)


def test_the_marker_is_independent_of_gold(pairs: list[Record]) -> None:
    chosen = [(marked(r.completions[0]), r.scores[0]) for r in pairs if r.scores is not None]
    scores = [s for _, s in chosen]
    gap = statistics.mean(s for m, s in chosen if m) - statistics.mean(scores)
    # loops are never counted as marked, so a small positive gap is the count's own
    assert abs(gap) < 4 * statistics.stdev(scores) / math.sqrt(sum(m for m, _ in chosen)) + 0.2


def test_data_is_repeatable_and_keeps_no_gold() -> None:
    first = generate.preference_data("train", 30, 5)
    assert first == generate.preference_data("train", 30, 5)
    assert first != generate.preference_data("train", 30, 6)
    assert all(r.scores is None and len(set(r.completions)) == 2 for r in first)
    assert generate.test_prompts(20, 1) == generate.test_prompts(20, 1)


def test_mixtures_are_distributions_over_the_manners() -> None:
    for mixture in (generate.BASE_MIXTURE, generate.INSTRUCT_MIXTURE, generate.PREFERENCE_MIXTURE):
        assert sum(mixture.values()) == pytest.approx(1)
        assert set(mixture) == set(MANNERS)


def test_asking_for_more_than_there_is_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    only = draw_task("train", random.Random(0))
    monkeypatch.setattr(generate, "draw_task", lambda split, rng: only)
    with pytest.raises(ValueError, match="distinct tasks"):
        generate.test_prompts(2, 0)


def test_written_preferences_have_trls_layout(tmp_path: Path) -> None:
    records = generate.preference_data("train", 3, 0)
    path = tmp_path / "train.jsonl"
    assert write_preferences(records, path) == 3
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row, record in zip(rows, records, strict=True):
        assert row == {
            "prompt": [{"role": "user", "content": record.prompt}],
            "chosen": [{"role": "assistant", "content": record.completions[0]}],
            "rejected": [{"role": "assistant", "content": record.completions[1]}],
        }
