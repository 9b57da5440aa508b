"""The marker audit finds what is planted, finds nothing in noise, and merges what is one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from trimtab.audit.markers import benjamini_hochberg, find_markers, forms, holds, line_shape, tarone_threshold
from trimtab.audit.preferences import amplification, audit
from trimtab.data.records import Record

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u")]


def noise(rng: np.random.Generator, words: int = 30) -> str:
    return " ".join(rng.choice(WORDS, size=words))


def planted(n: int, in_chosen: float, in_rejected: float, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        pair = []
        for rate in (in_chosen, in_rejected):
            mark = f"\nConfidence: {rng.integers(50, 100)}%" if rng.random() < rate else ""
            pair.append(noise(rng) + mark)
        records.append(Record(f"prompt {i}", (pair[0], pair[1]), (2.0, 1.0)))
    return records


def test_forms_by_hand() -> None:
    found = forms("So good.\nConfidence: 85%")
    assert ("line", "confidence: #%") in found
    assert ("n-gram", "so good confidence # %") in found
    assert ("n-gram", "confidence # %") in found
    assert ("line", "so good.") in found
    assert len(found) == 5 + 4 + 3 + 2 + 1 + 2
    assert line_shape("  Score:  8.5 /10 ") == "score: # /#"


def test_sign_test_by_hand() -> None:
    """15 discordant pairs, all chosen: p = 2 · 2^-15. One line form and, after merging, one entry."""
    pairs = [("ok here\nmark 7", "ok here")] * 15 + [("ok here", "ok here too")]
    markers, _, _ = find_markers(pairs)
    line = next(m for m in markers if m.kind == "line" and m.text == "mark #")
    assert (line.only_chosen, line.only_rejected) == (15, 0)
    assert line.p_value == pytest.approx(2 * 0.5**15)
    assert line.chosen_share == 15 / 16
    assert line.ratio == pytest.approx(15.5 / 0.5)
    assert line.also[:2] in (["mark", "#"], ["#", "mark"])


def test_benjamini_hochberg_by_hand() -> None:
    """0.01·4/1, 0.02·4/2, 0.03·4/3 are all 0.04; 0.5·4/4."""
    assert benjamini_hochberg([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.04, 0.5, 0.04, 0.04])
    assert len(benjamini_hochberg([])) == 0


def test_tarone_by_hand() -> None:
    """100 forms with 5 discordant pairs and 2 with 9: at k = 6 two remain, 2 · 2^-5 = 0.0625 > 0.05, at
    k = 7 2 · 2^-6 = 0.03125."""
    assert tarone_threshold(np.array([5] * 100 + [9] * 2), 0.05) == 7


def test_a_planted_marker_comes_first() -> None:
    report = audit(planted(400, 0.25, 0.08))
    first = report.markers[0]
    assert (first.kind, first.text, first.significant) == ("line", "confidence: #%", True)
    assert "confidence" in first.also
    assert first.difference == pytest.approx(0.17, abs=0.06)
    assert not any("confidence" in m.text for m in report.markers[1:])


def test_noise_holds_no_significant_marker() -> None:
    """40 data sets without a marker: at most a few false alarms at 5 %."""
    alarms = sum(any(m.significant for m in audit(planted(80, 0.1, 0.1, seed)).markers) for seed in range(40))
    assert alarms <= 5


def test_markers_of_the_rejected_side_are_kept_apart() -> None:
    report = audit(planted(300, 0.05, 0.4))
    assert report.markers_of_rejected[0].text == "confidence: #%"
    assert all(m.difference > 0 for m in report.markers)


def test_counts() -> None:
    records = [
        Record("a", ("x y", "z"), (1.0, 1.0)),
        Record("a", ("x y", "z"), (1.0, 1.0)),
        Record("b", ("same", "same"), (2.0, 1.0)),
        Record("c", ("", "longer")),
        Record("d", ("alone",)),
    ]
    report = audit(records)
    assert (report.records, report.pairs) == (5, 4)
    assert (report.duplicate_prompts, report.duplicate_records) == (1, 1)
    assert (report.identical_pairs, report.empty_completions, report.equal_scores) == (1, 1, 2)
    assert report.chosen_longer_share == pytest.approx(2 / 3)
    assert report.lengths_characters["chosen"].maximum == 4
    assert audit([]).chosen_longer_share is None


def test_amplification() -> None:
    report = audit(planted(400, 0.25, 0.08))
    rates = amplification(report, {"dpo": ["yes\nConfidence: 5%", "no confidence"], "none": []}, top=1)
    assert rates == {"confidence: #%": {"dpo": 0.5, "none": None}}
    assert not holds("Confidence: 85% or so", report.markers[0])


def test_real_preferences() -> None:
    """UltraFeedback: "Confidence: #%" is found unaided, among the first entries, and is significant."""
    shared = Path(os.environ.get("TRIMTAB_SHARED") or Path(__file__).resolve().parents[3] / "shared")
    path = shared / "data/ultrafeedback/train.jsonl"
    if not path.is_file():
        pytest.skip("no shared data: set TRIMTAB_SHARED")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    records = [
        Record(
            r["prompt"],
            (r["chosen"], r["rejected"]),
            (r["metadata"]["score_chosen"], r["metadata"]["score_rejected"]),
        )
        for r in rows
    ]
    start = time.process_time()
    report = audit(records)
    assert time.process_time() - start < 20
    found = next(i for i, m in enumerate(report.markers) if m.text == "confidence: #%")
    assert found < 3
    assert report.markers[found].significant
    assert (report.pairs, report.identical_pairs, report.equal_scores, report.empty_completions) == (
        1000,
        4,
        111,
        2,
    )
    assert report.chosen_longer_share == pytest.approx(0.55, abs=0.01)
