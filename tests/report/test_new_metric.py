"""A metric is one function and one row of the table: everything that shows numbers finds it there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.outputs_of import make, study
from trimtab.evaluation.answers import Answers
from trimtab.evaluation.metrics import METRICS, POSITIVE, Metric, Paired
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.results import Results
from trimtab.evaluation.statistics import Floats
from trimtab.report.metrics_page import metrics_markdown, with_metrics
from trimtab.report.render import write_report


def question_marks(answers: Answers) -> Floats:
    """How many each answer has."""
    return np.array([text.count("?") for text in answers.texts], dtype=np.float64)


def longest(answers: Answers) -> float:
    """Tokens of the longest answer."""
    return float(answers.tokens.max())


ROWS = (
    Metric("questions", "Questions", "mean question marks of a completion", digits=2, per_prompt=question_marks,
           paired=Paired("question marks"), range=POSITIVE),
    Metric("longest", "Longest", "tokens of the longest completion", 1.0, 0, overall=longest, doubt="seeds"),
)  # fmt: skip


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in ROWS:
        monkeypatch.setitem(METRICS, row.name, row)


def asking(name: str, *counts: int) -> MethodOutputs:
    outputs = make(name, [1.0] * len(counts), tokens=4 + sum(counts))
    for generation, count in zip(outputs.generations, counts, strict=True):
        generation.completion = "really" + count * "?"
    return outputs


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


@pytest.mark.usefixtures("table")
def test_a_row_of_the_table_is_all_that_a_new_metric_takes(tmp_path: Path) -> None:
    """dpo asks (1, 3) and (2, 2) times, sft (0, 1) with both seeds: means 2 and ½, the difference 1½."""
    per_seed = {s: [asking("sft", 0, 1), asking("dpo", *dpo)] for s, dpo in enumerate(((1, 3), (2, 2)))}
    results = study(per_seed, None)
    results.write(tmp_path / "results.json")
    page = write_report(results, tmp_path).read_text()

    stored = json.loads((tmp_path / "results.json").read_text())["methods"]["dpo"]
    assert (stored["questions"]["mean"], stored["questions"]["n"]) == (2.0, 2)
    assert stored["seeds"]["questions"]["values"] == {"0": 2.0, "1": 2.0}
    assert stored["longest"] == {"mean": 8.0}
    assert Results.read(tmp_path / "results.json") == results

    tables = tmp_path / "tables"
    by_method = {row["method"]: row for row in read_csv(tables / "methods.csv")}
    assert (by_method["dpo"]["questions"], by_method["sft"]["questions"]) == ("2.0", "0.5")
    assert float(by_method["dpo"]["questions_ci95_low"]) <= 2 <= float(by_method["dpo"]["questions_ci95_high"])
    assert by_method["dpo"]["longest"] == "8.0"
    for kind in ("md", "tex"):
        text = (tables / f"methods.{kind}").read_text()
        assert "Questions" in text
        assert "Longest" in text
    [pair] = [row for row in read_csv(tables / "comparisons.csv") if row["metric"] == "questions"]
    assert (pair["a"], pair["b"], pair["difference"], pair["n"]) == ("dpo", "sft", "1.5", "2")
    assert "questions_ci95_low" in read_csv(tables / "pairs.csv")[0]
    assert {"Questions", "Longest"} <= {row["metric"] for row in read_csv(tables / "seeds_all.csv")}

    assert (tmp_path / "figures" / "differences_questions.svg").is_file()
    assert "Paired differences in question marks." in page
    assert '<th scope="col">Longest</th>' in page
    assert "| `questions.mean` | Questions | mean question marks of a completion |" in metrics_markdown()


@pytest.mark.usefixtures("table")
def test_results_from_before_a_metric_are_read(tmp_path: Path) -> None:
    results = study([asking("sft", 0, 1)], None)
    for row in ROWS:
        del results.methods["sft"].estimates[row.name]
    stored = json.loads(results.to_json())
    for row in ROWS:
        del stored["methods"]["sft"][row.name]
    assert Results.model_validate(stored) == results


def test_the_documented_table_is_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert with_metrics(page) == page, "write it anew: python -m trimtab.report.metrics_page docs/metrics.md"
    with pytest.raises(ValueError, match="has 0 places"):
        with_metrics("# Nothing here")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_row_can_be_measured_and_shown(metric: Metric) -> None:
    assert (metric.per_prompt is None) != (metric.overall is None), "one number a prompt, or one of all"
    assert metric.paired is None or metric.per_prompt is not None, "only numbers of prompts can be paired"
    assert metric.title
    assert metric.note
    places = [row.path for row in METRICS.values()]
    assert places.count(metric.path) == 1
