"""From lm-eval's samples to a number a document: the mean is lm-eval's own number, or there are no such numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.lm_eval_files import Values, results
from trimtab.errors import TrimtabError
from trimtab.evaluation.task_scores import TaskScores
from trimtab.tasks.ask import _write
from trimtab.tasks.scores import kept_scores


def kept(
    folder: Path,
    asked: str,
    tasks: Mapping[str, tuple[Values, Mapping[str, float]]],
    groups: Mapping[str, Mapping[str, float]] | None = None,
    headline: str | None = None,
) -> list[TaskScores]:
    _write(folder, results(tasks, groups))
    return kept_scores(folder, asked, headline)


def listed(scores: TaskScores) -> Any:
    return None if scores.values is None else scores.values.tolist()


def test_every_metric_and_filter_the_first_is_the_headline(tmp_path: Path) -> None:
    values = {"acc,none": [1.0, 0.0, 1.0], "acc_norm,none": [0.0, 0.0, 1.0], "loss,none": [2.0, 3.0, 4.0]}
    numbers = {"acc,none": 2 / 3, "acc_norm,none": 1 / 3, "loss,none": 3.0}
    found = kept(tmp_path, "arc", {"arc": (values, numbers)})
    assert [(s.task, s.metric, s.headline, s.share, s.higher_is_better) for s in found] == [
        ("arc", "acc", True, True, True),
        ("arc", "acc_norm", False, True, True),
        ("arc", "loss", False, False, False),
    ]
    assert [listed(s) for s in found] == [[1, 0, 1], [0, 0, 1], [2, 3, 4]]
    assert [(s.version, s.shots) for s in found[:1]] == [("1.0", 2)]
    assert len(set(found[0].documents)) == 3
    filters = {"exact_match,strict-match": [1.0, 0.0, 0.0], "exact_match,flexible-extract": [1.0, 1.0, 0.0]}
    numbers = {"exact_match,strict-match": 1 / 3, "exact_match,flexible-extract": 2 / 3}
    found = kept(tmp_path, "gsm8k", {"gsm8k": (filters, numbers)})
    assert [(s.metric, listed(s)) for s in found] == [
        ("exact_match, strict-match", [1, 0, 0]),
        ("exact_match, flexible-extract", [1, 1, 0]),
    ]


@pytest.mark.parametrize("name", ["exact_match, flexible-extract", "exact_match,flexible-extract", "f1"])
def test_the_headline_can_be_chosen(tmp_path: Path, name: str) -> None:
    values = {
        "exact_match,strict-match": [1.0],
        "exact_match,flexible-extract": [0.0],
        "f1,flexible-extract": [1.0],
    }
    numbers = {key: of[0] for key, of in values.items()}
    found = kept(tmp_path, "gsm8k", {"gsm8k": (values, numbers)}, headline=name)
    assert [s.metric for s in found if s.headline] == [found[0].metric]
    assert found[0].metric.startswith(name.partition(",")[0])
    with pytest.raises(TrimtabError, match="gsm8k has no metric 'bleu'"):
        kept_scores(tmp_path, "gsm8k", "bleu")


def test_several_numbers_a_document_are_a_ratio_of_sums(tmp_path: Path) -> None:
    values = {"inst,none": [[True], [True, False, False], [False, True]]}
    [found] = kept(tmp_path, "ifeval", {"ifeval": (values, {"inst,none": 3 / 6})})
    assert listed(found) == [0.5, 0.5, 0.5]  # one held of each, and 3 documents of 6 instructions
    assert found.share


@pytest.mark.parametrize("values", [[["a", "b"]] * 3, [1.0, 0.0, 1.0], [[], [1.0], [1.0]], [None, 1.0, 1.0]])
def test_what_is_no_mean_over_documents_keeps_lm_evals_number_alone(tmp_path: Path, values: list[Any]) -> None:
    """Pairs of texts, as corpus BLEU has them; an aggregation of its own, such as F1; documents without numbers."""
    [found] = kept(tmp_path, "t", {"t": ({"bleu,none": values}, {"bleu,none": 0.4})})
    assert (found.values, found.number, found.share) == (None, 0.4, False)


GROUP: dict[str, tuple[Values, Mapping[str, float]]] = {
    "a": ({"acc,none": [1.0, 1.0, 1.0, 0.0]}, {"acc,none": 0.75}),
    "b": ({"acc,none": [0.0, 0.0]}, {"acc,none": 0.0}),
}


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (3 / 6, [1, 1, 1, 0, 0, 0]),  # a mean over documents
        (0.75 / 2, [0.75, 0.75, 0.75, 0, 0, 0]),  # of tasks: each document counts 6 / (2 · 4) and 6 / (2 · 2)
        (0.9, None),
    ],
)
def test_a_group_is_paired_as_lm_eval_weighs_it(tmp_path: Path, number: float, expected: Any) -> None:
    found = kept(tmp_path, "g", GROUP, {"g": {"acc,none": number}})
    assert [(s.task, s.headline) for s in found] == [("g", True), ("a", False), ("b", False)]
    assert listed(found[0]) == expected
    assert len(set(found[0].documents)) == 6
    if found[0].values is not None:
        assert np.mean(found[0].values) == pytest.approx(number)


def test_of_a_tag_each_task_has_a_headline(tmp_path: Path) -> None:
    found = kept(tmp_path, "tag", GROUP)
    assert [(s.task, s.headline) for s in found] == [("a", True), ("b", True)]
