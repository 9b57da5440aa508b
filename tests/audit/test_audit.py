"""The marker audit finds what is planted, finds nothing in noise, and merges what is one."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.audit.forms import FUNCTION_WORDS, held_lines, held_ngrams, line_shape, normalized_words
from trimtab.audit.markers import benjamini_hochberg, find_markers, holds, length_preference, tarone_threshold
from trimtab.audit.power import chance_of_finding, power_in_words, times
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


def forms(text: str) -> set[tuple[str, str]]:
    """Every form of a text, one by one: what forms.py counts as arrays."""
    words = normalized_words(text)
    grams = {" ".join(words[i : i + n]) for n in range(1, 6) for i in range(len(words) - n + 1)}
    lines = {line_shape(line) for line in text.splitlines()}
    edges = FUNCTION_WORDS - {"#", "%"}
    telling = {
        gram
        for gram in grams
        if not FUNCTION_WORDS.issuperset(gram.split()) and not edges & {gram.split()[0], gram.split()[-1]}
    }
    return {("n-gram", g) for g in telling} | {("line", s) for s in lines if s and len(s) <= 80}


def holdings(texts: list[str], least: int) -> set[tuple[str, str, int]]:
    """(kind, form, text) as forms.py finds them."""
    both = held_lines(texts), held_ngrams([normalized_words(text) for text in texts], least)
    return {
        (held.kind, held.names[form], int(text))
        for held in both
        for form, text in zip(held.form_of, held.text_of, strict=True)
    }


def test_forms_by_hand() -> None:
    """ "good confidence # %" has 10 sequences, of which "#", "%" and "# %" say nothing; others begin with "so"."""
    found = {(kind, form) for kind, form, _ in holdings(["So good.\nConfidence: 85%"], 1)}
    assert ("line", "confidence: #%") in found
    assert ("n-gram", "good confidence # %") in found
    assert ("n-gram", "confidence # %") in found
    assert ("line", "so good.") in found
    assert ("n-gram", "so") not in found
    assert len(found) == 10 - 3 + 2
    assert line_shape("  Score:  8.5 /10 ") == "score: # /#"


SENTENCES = st.lists(
    st.sampled_from(["the", "of", "cat", "runs", "3", "50%", "\n", "I'm", "I’m", "."]), max_size=14
)


@given(st.lists(SENTENCES.map(" ".join), min_size=1, max_size=6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_arrays_hold_what_each_text_holds(texts: list[str], least: int) -> None:
    held = [(kind, form, i) for i, text in enumerate(texts) for kind, form in forms(text)]
    often = Counter((kind, form) for kind, form, _ in held)
    expected = {h for h in held if h[0] == "line" or often[h[:2]] >= least}
    assert holdings(texts, least) == expected


def test_sign_test_by_hand() -> None:
    """15 discordant pairs, all chosen, alike in length but for the form: p = 2 · 2^-15. One entry after merging."""
    pairs = [("ok here\nmark 7", "ok here")] * 15 + [("ok here", "ok here too")]
    markers, _, _ = find_markers(pairs)
    line = next(m for m in markers if m.kind == "line" and m.text == "mark #")
    assert (line.only_chosen, line.only_rejected) == (15, 0)
    assert line.expected_chosen == pytest.approx(7.5)
    assert line.p_value == pytest.approx(2 * 0.5**15)
    assert line.chosen_share == 15 / 16
    assert line.ratio == pytest.approx(15.5 / 0.5)
    assert line.also[0] == "mark"


def test_length_preference_by_hand() -> None:
    """Texts of twice the words are chosen in 3 of 4 pairs: σ(γ · ln 2) = 3/4, so γ = ln 3 / ln 2. A form that every
    second long text holds is then chosen in 3 of 4 of its pairs, and that is what is expected."""
    twice = np.log(2.0) * np.array([1, 1, 1, -1] * 100)
    assert length_preference(twice) == pytest.approx(np.log(3) / np.log(2), abs=0.02)
    assert length_preference(np.zeros(3)) == pytest.approx(0, abs=1e-6)
    long, short = "word " * 19, "word " * 9
    pairs = [(long + ("mark" if i % 2 else "word"), short + "word") for i in range(120)]
    pairs += [(short + "word", long + ("mark" if i % 2 else "word")) for i in range(40)]
    ups, downs, tested = find_markers(pairs)
    assert tested["n-gram"] >= 1
    assert not any(m.significant for m in [*ups, *downs])


def test_false_markers_where_length_is_preferred() -> None:
    """The longer text is chosen in 80 %, whatever it says. 30 data sets: at most a few alarms at 5 %."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(30):
        pairs = []
        for _ in range(150):
            longer, shorter = noise(rng, 60), noise(rng, 25)
            pairs.append((longer, shorter) if rng.random() < 0.8 else (shorter, longer))
        ups, downs, _ = find_markers(pairs)
        alarms += any(m.significant for m in [*ups, *downs])
    assert alarms <= 4


def test_nothing_to_look_at() -> None:
    assert find_markers([]) == ([], [], {"line": 0, "n-gram": 0})
    assert find_markers([("", "")]) == ([], [], {"line": 0, "n-gram": 0})


def test_power_by_enumeration() -> None:
    """Six pairs of which each is discordant with 1/2 + 1/2 · 0: shares 1 and 0 make all six only chosen. One line:
    the threshold of a tail is 0.05 / 4 = 0.0125, under which 2^-6 = 0.0156 is not, and 2^-7 is."""
    assert chance_of_finding(6, 1, 1.0, 0.0) == 0
    assert chance_of_finding(7, 1, 1.0, 0.0) == pytest.approx(1)
    # Half the pairs are discordant, all only chosen: 8 of 8 or 7 of 8 of them are seen.
    assert chance_of_finding(8, 1, 0.5, 0.0) == pytest.approx((1 + 8) / 2**8)
    assert times(0.42) == "4 times in 10"
    assert times(0.12) == "1 time in 10"
    assert times(0.01) == "less than 1 time in 20"
    assert times(0.999) == "more than 19 times in 20"
    assert "would be found less than 1 time in 20" in power_in_words(10, {})


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
    assert time.process_time() - start < 8
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
