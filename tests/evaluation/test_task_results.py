"""Standard tasks of all methods, against numbers by hand: pairs by document, seeds, the opponent, the sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.outputs_of import make, study
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.rates import rate_interval
from trimtab.evaluation.results import Results
from trimtab.evaluation.task_scores import TaskScores
from trimtab.evaluation.verdict import NOT_JUDGED
from trimtab.report.render import write_report
from trimtab.report.task_tables import task_metrics_table, task_pairs_table, tasks_table

N = 60


def scores(
    values: Sequence[float] | None, task: str = "gsm8k", metric: str = "exact_match", **more: object
) -> TaskScores:
    n = N if values is None else len(values)
    given = {
        "headline": True, "number": 0.0 if values is None else float(np.mean(values)), "share": True,
        "documents": tuple(f"{task}/h{i}#{i}" for i in range(n)),
        "values": None if values is None else np.array(values, dtype=np.float64), "version": "3.0", "shots": 5,
    }  # fmt: skip
    return TaskScores(task=task, metric=metric, **(given | more))  # type: ignore[arg-type]


def asked(name: str, *tasks: TaskScores, judged: Sequence[float] = ()) -> MethodOutputs:
    """Without `judged` nothing of it was."""
    outputs = make(name, judged or [0.0] * N)
    return replace(outputs, tasks=tasks, scores=outputs.scores if judged else [])


def right(count: int, n: int = N) -> list[float]:
    """The first `count` of n documents answered rightly."""
    return [1.0] * count + [0.0] * (n - count)


def test_pairs_by_document_by_hand() -> None:
    base, dpo = scores(right(40)), scores(right(25))
    results = study([asked("dpo", dpo)], None, fixed=[asked("base", base)])
    [task] = results.tasks
    assert {name: estimate.value for name, estimate in task.methods.items()} == {"base": 40 / N, "dpo": 25 / N}
    expected = rate_interval(np.array(right(40)), bounds=(0.0, 1.0)).pair()
    assert task.methods["base"].ci95 == expected
    [pair] = task.comparisons
    assert (pair.a, pair.b, pair.difference, pair.n) == ("dpo", "base", pytest.approx(-15 / N), N)
    # 15 documents changed, all for the worse: of 2^15 flips of signs two are as far out, and mid-p counts half.
    assert pair.p_value == pytest.approx(1 / 2**15, rel=0.02)


def test_the_order_of_documents_does_not_matter() -> None:
    base, values = asked("base", scores(right(40))), right(25)
    turned = scores(values[::-1], documents=tuple(f"gsm8k/h{i}#{i}" for i in reversed(range(N))))
    results = study([asked("dpo", turned)], None, fixed=[base])
    assert results.tasks == study([asked("dpo", scores(values))], None, fixed=[base]).tasks


def test_documents_of_equal_text_are_one_unit() -> None:
    twice = tuple(f"gsm8k/h{i // 2}#{i}" for i in range(N))
    results = study([asked("base", scores(right(40), documents=twice))], None)
    basis = results.tasks[0].methods["base"].basis
    assert basis is not None
    assert (basis.unit, basis.units) == ("clusters of rows", N // 2)


def test_the_sentence_names_what_was_won_and_what_it_cost() -> None:
    base = asked("base", scores(right(40)), scores(right(30), "arc"), judged=[0.0] * N)
    dpo = asked("dpo", scores(right(25)), scores(right(31), "arc"), judged=[2.0] * 50 + [0.0] * 10)
    results = study([dpo], make("other", [1.0] * N), fixed=[base])
    # The other of the study was asked nothing, so nothing is said of all of them.
    assert results.tasks == []
    opponent = replace(make("other", [1.0] * N), tasks=base.tasks)
    results = study([dpo], opponent, fixed=[base])
    sentence = results.verdict[-1]
    assert sentence.startswith(
        "DPO against Base, standard tasks: helped preference by 83.3 points of win rate, cost 25.0 points of gsm8k "
        "(exact_match) (95 % interval "
    )
    assert "after Holm's correction); arc (exact_match): no measurable difference, +1.7 points" in sentence
    assert tasks_table(results).rows[0][:2] == ["Base", "66.7 [54.1, 77.3]"]


def test_the_opponent_stands_among_the_methods_unless_it_is_one_of_them() -> None:
    base = asked("base", scores(right(40)))
    other = replace(make("other", [1.0] * N), tasks=(scores(right(10)),))
    results = study([asked("dpo", scores(right(25)))], other, fixed=[base])
    assert list(results.tasks[0].methods) == ["other", "base", "dpo"]
    assert len(results.tasks[0].comparisons) == 3
    same = study([asked("dpo", scores(right(25)))], replace(base, name="the base"), fixed=[base])
    assert list(same.tasks[0].methods) == ["base", "dpo"]


def test_seeds_are_pooled() -> None:
    dpo = {seed: [asked("dpo", scores(right(count)))] for seed, count in {0: 30, 1: 36, 2: 33}.items()}
    results = study(dpo, None, fixed=[asked("base", scores(right(24)))])
    [task] = results.tasks
    assert task.methods["dpo"].value == pytest.approx(33 / N)
    spread = task.methods["dpo"].seeds
    assert spread is not None
    assert spread.values == {0: 30 / N, 1: 36 / N, 2: 33 / N}
    [pair] = task.comparisons
    assert pair.difference == pytest.approx(9 / N)
    assert pair.seeds is not None
    assert pair.seeds.values[1] == pytest.approx(12 / N)


def test_lower_may_be_better_and_a_number_may_have_no_documents() -> None:
    rng = np.random.default_rng(0)
    loss, noise = rng.normal(2, 0.1, N), rng.normal(0.5, 0.05, N)
    of = {"task": "wiki", "metric": "loss", "share": False, "higher_is_better": False}
    base = asked("base", scores(loss, **of), scores(None, "bleu", share=False, number=12.0))
    dpo = asked("dpo", scores(loss + noise, **of), scores(None, "bleu", share=False, number=15.0))
    results = study([dpo], None, fixed=[base])
    assert results.verdict[0].startswith("DPO against Base, standard tasks: worsened wiki (loss) by 0.")
    assert NOT_JUDGED not in results.verdict
    without = results.tasks[1]
    assert (without.by_document, without.comparisons) == (False, [])
    assert {name: (e.value, e.ci95) for name, e in without.methods.items()} == {
        "base": (12.0, None),
        "dpo": (15.0, None),
    }
    assert "without an interval: bleu" in tasks_table(results).notes[-1]
    assert "Lower is better: wiki." in tasks_table(results).notes


def test_other_documents_cannot_be_paired() -> None:
    other = scores(right(25), documents=tuple(f"gsm8k/x{i}#{i}" for i in range(N)))
    with pytest.raises(TrimtabError, match="task gsm8k: base and dpo saw other documents"):
        study([asked("dpo", other)], None, fixed=[asked("base", scores(right(25)))])


def test_holm_corrects_over_all_pairs_of_a_metric() -> None:
    methods = [asked("sft", scores(right(34))), asked("dpo", scores(right(25)))]
    results = study(methods, None, fixed=[asked("base", scores(right(40)))])
    pairs = {(c.a, c.b): c for c in results.tasks[0].comparisons}
    lowest = min(pairs.values(), key=lambda c: c.p_value)
    assert len(pairs) == 3
    assert lowest.p_holm == pytest.approx(3 * lowest.p_value)


def test_results_and_report_hold_them(tmp_path: Path) -> None:
    second = {"metric": "acc_norm", "headline": False}
    base = asked("base", scores(right(40)), scores(right(20), **second))
    results = study([asked("dpo", scores(right(25)), scores(right(21), **second))], None, fixed=[base])
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    assert tasks_table(results).header == ["Method", "gsm8k (exact_match), %"]
    assert task_metrics_table(results).header == ["Method", "gsm8k (acc_norm), %"]
    assert [row[0] for row in task_pairs_table(results).rows] == ["gsm8k (exact_match)", "gsm8k (acc_norm)"]
    assert task_pairs_table(results).rows[0][2].endswith("*")
    write_report(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Standard tasks" in page
    assert (tmp_path / "tables" / "task_pairs.csv").read_text().count("gsm8k") == 2
