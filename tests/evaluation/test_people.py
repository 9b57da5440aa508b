"""What labels come to: corrected numbers, agreement, checks and sentences, by hand and with planted faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from trimtab.evaluation.answers import Options
from trimtab.evaluation.outcome import outcome_of
from trimtab.evaluation.outputs import GivenAnswer, MethodOutputs, Score
from trimtab.evaluation.people_result import CorrectedNumber, People
from trimtab.evaluation.prediction_powered import corrected_rate
from trimtab.evaluation.results import Results
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.evaluation.votes import Labels, Vote

N = 200


def outputs(name: str, scores: Sequence[float], lengths: Sequence[int] | None = None) -> MethodOutputs:
    sizes = lengths or [10] * len(scores)
    answers = [GivenAnswer(str(i), f"ask {i}", "x" * size, characters=size) for i, size in enumerate(sizes)]
    return MethodOutputs(name, answers, [Score(id=str(i), score=float(s)) for i, s in enumerate(scores)])


def results_of(made: Sequence[MethodOutputs], votes: Sequence[Vote], **seeds: Sequence[MethodOutputs]) -> Results:
    per_seed = {int(seed[1:]): of_seed for seed, of_seed in seeds.items()}
    study = StudyOutputs(per_seed, made[1:], made[0], labels=Labels("votes.jsonl", votes))
    return summarise(study, About("t", judge="j"), Options(n_resamples=50))


def people(*arguments: object, **seeds: Sequence[MethodOutputs]) -> People:
    found = results_of(*arguments, **seeds).people  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_rate_and_a_difference_are_those_of_the_formula() -> None:
    """Two methods beside base, labels of both on 40 prompts: the same as the formula on columns made by hand."""
    rng = np.random.default_rng(1)
    judged = {name: rng.integers(0, 2, N) for name in ("sft", "dpo")}
    said = {name: np.where(rng.random(N) < 0.8, judged[name], 1 - judged[name]).astype(float) for name in judged}
    made = [outputs("base", [0.5] * N), *(outputs(name, judged[name].tolist()) for name in judged)]
    chosen = rng.choice(N, 40, replace=False)
    votes = [Vote(str(i), "base", name, 1 - said[name][i], "ann") for name in judged for i in chosen]
    found = people(made, votes)
    assert [(n.kind, n.a, n.b) for n in found.numbers] == [
        ("rate", "sft", "base"), ("rate", "dpo", "base"), ("difference", "dpo", "sft"),
    ]  # fmt: skip
    some = np.isin(np.arange(N), chosen)
    columns = {
        "sft": (np.where(some, said["sft"], np.nan), judged["sft"], (0.0, 1.0)),
        "dpo": (np.where(some, said["dpo"], np.nan), judged["dpo"], (0.0, 1.0)),
        "difference": (
            np.where(some, said["dpo"] - said["sft"], np.nan), judged["dpo"] - judged["sft"], (-1.0, 1.0),
        ),
    }  # fmt: skip
    for number, (labels, judge, bounds) in zip(found.numbers, columns.values(), strict=True):
        expected = corrected_rate(labels, judge, bounds=bounds)
        assert expected is not None
        assert number.corrected is not None
        assert number.judge is not None
        assert number.corrected.value == pytest.approx(expected.value)
        assert number.corrected.ci95 == pytest.approx(expected.interval.pair())
        assert (number.judge.value, number.labels.value) == (
            pytest.approx(judge.mean()), pytest.approx(np.nanmean(labels)),
        )  # fmt: skip
        assert (number.labelled, number.rows, number.weight) == (40, N, expected.weight)
        assert number.more_to_halve == expected.labels_to_halve()


def test_persons_are_averaged_and_set_beside_each_other() -> None:
    """Ann and Bob on 12 answers: both say won on 6, lost on 3, they differ on 3. Ann votes once each way on one."""
    made = [outputs("base", [0.0] * 30), outputs("dpo", [1.0] * 20 + [-1.0] * 10)]
    ann = [1.0] * 6 + [0.0] * 3 + [1.0] * 3
    bob = [1.0] * 6 + [0.0] * 6
    votes = [Vote(str(i), "dpo", "base", s, p) for p, of in (("a", ann), ("b", bob)) for i, s in enumerate(of)]
    votes += [Vote("0", "dpo", "base", 0.0, "a")]
    found = people(made, votes)
    assert (found.votes, found.persons, found.prompts) == (25, 2, 12)
    [number] = found.numbers
    assert number.labels.value == pytest.approx((5 + 0.75 + 0 + 3 * 0.5) / 12)
    judge, each_other = found.agreement
    assert (judge.who, judge.raw.n, judge.raw.value) == ("judge", 24, pytest.approx((11 + 3) / 24))
    assert judge.table == [[0, 0, 9], [0, 0, 1], [0, 0, 14]]
    assert (each_other.who, each_other.raw.value) == ("people", pytest.approx(8 / 12))
    assert each_other.kappa is not None


def test_three_persons_have_no_kappa() -> None:
    made = [outputs("base", [0.0] * 30), outputs("dpo", [1.0, -1.0] * 15)]
    votes = [Vote(str(i), "dpo", "base", float((i + j) % 2), p) for i in range(20) for j, p in enumerate("abc")]
    each_other = people(made, votes).agreement[1]
    assert each_other.kappa is None
    assert each_other.raw.value == pytest.approx(1 / 3)


def test_seeds_that_have_labels_are_corrected() -> None:
    """Of two training seeds one was labelled: the judge's rate is that of this seed."""
    base = outputs("base", [0.5] * 40)
    runs = {"s0": [outputs("dpo", [0.0] * 40)], "s7": [outputs("dpo", [1.0] * 30 + [0.0] * 10)]}
    votes = [Vote(str(i), "dpo", "base", 1.0, "a", 7) for i in range(0, 40, 2)]
    [number] = people([base], votes, **runs).numbers
    assert number.judge is not None
    assert (number.judge.value, number.rows, number.labelled) == (0.75, 40, 20)


@pytest.mark.parametrize(
    ("choose", "said"),
    [
        (lambda i, longer, margin: longer, "the answers differ by"),
        (lambda i, longer, margin: margin < 0.4, "the judge's scores differ by"),
        (lambda i, longer, margin: i % 3 == 0, ""),
    ],
)
def test_labels_that_are_no_random_sample_are_told(choose: Callable[[int, bool, float], bool], said: str) -> None:
    """Those of the longest answers, of those that the judge finds close, and every third."""
    rng = np.random.default_rng(4)
    scores, lengths = rng.normal(size=N), rng.integers(20, 400, N)
    made = [outputs("base", [0.0] * N), outputs("dpo", scores.tolist(), lengths.tolist())]
    chosen = [i for i in range(N) if choose(i, bool(lengths[i] > 250), float(abs(scores[i])))]
    results = results_of(made, [Vote(str(i), "dpo", "base", 1.0, "a") for i in chosen])
    told = [line for line in results.warnings if "no random sample" in line]
    assert len(told) == bool(said)
    assert said in " ".join(told)


def test_agreement_by_length_finds_a_judge_that_likes_length() -> None:
    """The judge always prefers the longer answer, people by the prompt's number: they agree on half."""
    rng = np.random.default_rng(5)
    lengths = [int(n) for n in rng.integers(20, 400, N)]
    made = [outputs("base", [200.0] * N, [200] * N), outputs("dpo", lengths, lengths)]
    votes = [Vote(str(i), "dpo", "base", float(i % 2), "a") for i in range(N) if lengths[i] != 200]
    thirds = people(made, votes).lengths
    assert [third.judge_longer for third in thirds] == [1.0, 1.0, 1.0]
    assert thirds[0].high <= thirds[1].low <= thirds[1].high <= thirds[2].low
    assert all(0.35 < third.people_longer == third.agreement.value < 0.65 for third in thirds)


def test_what_people_contradict_is_said_and_no_outcome() -> None:
    """The judge gives dpo 80 %, people a half: no outcome, and a sentence. Where people agree, it helped."""
    made = [outputs("base", [0.0] * N), outputs("dpo", ([1.0] * 4 + [-1.0]) * 40)]
    against = results_of(made, [Vote(str(i), "dpo", "base", float(i % 2), "a") for i in range(100)])
    assert any(line.endswith("the judge alone says 80.0, which people contradict.") for line in against.verdict)
    outcome = outcome_of(against, "dpo", "base")
    assert outcome.outcome == "undecided"
    assert str(outcome.why).startswith("people do not bear it out: their corrected win rate is")
    agreeing = results_of(made, [Vote(str(i), "dpo", "base", float(i % 5 != 4), "a") for i in range(100)])
    assert outcome_of(agreeing, "dpo", "base").outcome == "helped"
    assert "contradict" not in " ".join(agreeing.verdict)


def test_a_claim_that_few_labels_do_not_bear_out_is_said() -> None:
    """The judge's 60 % of 200 is clear, 20 labels of the same share are not; they contradict nothing."""
    made = [outputs("base", [0.0] * N), outputs("dpo", ([1.0] * 3 + [-1.0] * 2) * 40)]
    results = results_of(made, [Vote(str(i), "dpo", "base", float(i % 10 < 6), "a") for i in range(20)])
    assert results.people is not None
    [number] = results.people.numbers
    assert (number.contradicted, number.borne_out, number.turned_round().borne_out) == (False, False, False)
    assert any(
        line.endswith("the judge alone says 60.0, which people do not bear out.") for line in results.verdict
    )


def test_a_number_turned_round() -> None:
    made = [outputs("base", [0.0] * N), outputs("dpo", [1.0, -1.0, 1.0, 1.0] * 50)]
    found = people(made, [Vote(str(i), "dpo", "base", 1.0, "a") for i in range(60)])
    one, other = found.number_of("dpo", "base"), found.number_of("base", "dpo")
    assert isinstance(one, CorrectedNumber)
    assert isinstance(other, CorrectedNumber)
    assert other.labels.value == 0.0
    assert other.corrected is not None
    assert one.corrected is not None
    assert other.corrected.ci95 == pytest.approx((1 - one.corrected.ci95[1], 1 - one.corrected.ci95[0]))  # type: ignore[index]


def test_results_with_labels_are_written_and_read(tmp_path: object) -> None:
    made = [outputs("base", [0.0] * 40), outputs("dpo", [1.0] * 30 + [-1.0] * 10)]
    results = results_of(made, [Vote(str(i), "dpo", "base", 1.0, "a") for i in range(20)])
    assert Results.model_validate_json(results.to_json()).people == results.people
    assert any(line.startswith("Of some methods only 20 answers are labelled") for line in results.warnings)


def test_labels_without_a_judge_stand_alone() -> None:
    """Answers that nobody scored: people's own rate, and nothing corrected."""
    made = [outputs("base", [0.0] * 40), outputs("dpo", [0.0] * 40)]
    for one in made:
        one.scores = []
    results = results_of(made, [Vote(str(i), "dpo", "base", 1.0, "a") for i in range(20)])
    assert results.people is not None
    [number] = results.people.numbers
    assert (number.labels.value, number.judge, number.corrected) == (1.0, None, None)
    assert results.people.agreement == []
    [line] = results.verdict
    assert line.startswith("DPO against Base, by people's 20 labels alone: 100.0 % won")
