"""A judge's card: by hand, and with judges whose biases are planted, so that their sizes are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.outputs_of import make
from servers.judge_server import Biases, judging
from trimtab.evaluation import judge_probes
from trimtab.evaluation.answers import Answers
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.judge_card import JudgeCard, card_of, family_of, relatives_of
from trimtab.evaluation.judge_probes import PADDING, AskedRows, Probe, probe_judge
from trimtab.evaluation.outputs import Generation, MethodOutputs, Score
from trimtab.evaluation.power import Spread, smallest_gain
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.rewards.base import OPPONENT_COLUMN, Reward, Scored
from trimtab.rewards.pairwise import PairwiseSettings
from trimtab.rewards.settings_base import RewardContext


def outputs(name: str, texts: Sequence[str]) -> MethodOutputs:
    """A method with these answers."""
    return MethodOutputs(
        name,
        [
            Generation(id=str(i), prompt=f"Question {i}?", completion=text, tokens=4, terminated=True)
            for i, text in enumerate(texts)
        ],
    )


def judged(shares: Sequence[tuple[float, float] | None], members: Sequence[dict[str, float]] = ()) -> list[Score]:
    """Judgements by (share when shown first, when shown second); None: missing."""
    rows = []
    for i, both in enumerate(shares):
        if both is None:
            rows.append(Score(id=str(i), score=None, reason="cut", breakdown={"first": 1.0, "second": None}))
            continue
        parts: dict[str, Any] = {"first": both[0], "second": both[1]}
        parts["flipped"] = (both[0] - 0.5) * (both[1] - 0.5) < 0
        parts |= {"members": members[i]} if members else {}
        rows.append(Score(id=str(i), score=sum(both) / 2, breakdown=parts))
    return rows


def card(made: MethodOutputs, opponent: MethodOutputs, probes: Sequence[Probe] = ()) -> JudgeCard:
    found = card_of({made.name: [Answers(made, opponent)]}, probes)
    assert found is not None
    return found


def covers(estimate: Estimate | None, value: float) -> bool:
    assert estimate is not None
    assert estimate.ci95 is not None
    return estimate.ci95[0] <= value <= estimate.ci95[1]


def share(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def test_a_card_by_hand() -> None:
    """Won both, lost both, a flip for the first, a flip for the second, one missing, one equal.

    Position: ½, ½, 1, 0. Longer (ours on places 0 and 1, theirs on 2 and 3): 1, 0, ½, ½; none of the equal one.
    """
    ours, theirs = outputs("m", ["aaaa", "aaaa", "a", "a", "aa", "x"]), outputs("o", ["bb"] * 5 + ["x"])
    ours.judge_by(
        [*judged([(1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), None]),
         Score(id="5", score=0.5, breakdown={"equal": True})]
    )  # fmt: skip
    found = card(ours, theirs)
    assert (found.pairs, found.missing) == (5, 1)
    assert (share(found.position), found.position and found.position.n) == (0.5, 4)
    assert (share(found.flips), found.flips and found.flips.n) == (0.5, 4)
    assert (share(found.longer), found.longer and found.longer.n) == (0.5, 4)
    null = found.nulls["m"]
    # Of the 5 that were judged: 2 longer, 2 shorter, 1 equal.
    assert (null.judge, null.longest, null.shortest, null.first) == (0.5, 0.5, 0.5, 0.5)
    outcomes = [1.0, 0.0, 0.5, 0.5, 0.5]
    assert found.smallest_gain == pytest.approx(smallest_gain(Spread(float(np.std(outcomes, ddof=1))), 5))
    assert found.padded is None
    assert found.repeated is None


def test_what_longer_answers_win() -> None:
    """Ours longer and won twice, theirs longer and won once: 3 of 3; nothing but lengths is needed of a score."""
    ours, theirs = make("m", [3.0, 3.0, 1.0, 2.0]), make("o", [2.0, 1.0, 2.0, 2.0])
    for side, lengths in ((ours, (9, 9, 2, 5)), (theirs, (4, 4, 6, 5))):
        side.generations = [
            Generation(id=g.id, prompt=g.prompt, completion="x" * n, tokens=4, terminated=True)
            for g, n in zip(side.generations, lengths, strict=True)
        ]
    found = card(ours, theirs)
    assert (share(found.longer), found.longer and found.longer.n) == (1.0, 3)
    assert found.position is None
    assert (found.nulls["m"].judge, found.nulls["m"].longest) == (0.625, 0.625)


def test_soft_shares_count_as_they_are() -> None:
    ours = outputs("m", ["a", "aa"])
    ours.judge_by(judged([(0.9, 0.3), (0.6, 0.5)]))
    found = card(ours, outputs("o", ["bbb", "bbb"]))
    assert share(found.position) == pytest.approx((0.8 + 0.55) / 2)
    assert share(found.flips) == 0.5
    assert share(found.longer) == pytest.approx(1 - (0.6 + 0.55) / 2)


def test_members_of_a_jury_agree() -> None:
    """x and y: the same winner on place 0, a tie by both on 1, opposite on 2; z is missing on 0."""
    members = [{"x": 1.0, "y": 0.75, "z": None}, {"x": 0.5, "y": 0.5, "z": 1.0}, {"x": 0.0, "y": 1.0, "z": 0.0}]
    ours = outputs("m", ["a", "aa", "aaa"])
    ours.judge_by(judged([(1.0, 1.0)] * 3, members))  # type: ignore[arg-type]
    found = {(pair.a, pair.b): pair.same for pair in card(ours, outputs("o", ["b"] * 3)).members}
    assert {pair: (same.value, same.n) for pair, same in found.items()} == {
        ("x", "y"): (pytest.approx(2 / 3), 3), ("x", "z"): (0.5, 2), ("y", "z"): (0.0, 2),
    }  # fmt: skip


def test_no_card_where_nothing_was_judged() -> None:
    ours = outputs("m", ["a"])
    assert card_of({"m": [Answers(ours, outputs("o", ["b"]))]}) is None
    ours.judge_by(judged([None]))
    assert card_of({"m": [Answers(ours, outputs("o", ["b"]))]}) is None


def test_prompts_of_several_methods_are_one_unit() -> None:
    """Two methods that answer alike are no more evidence than one of them."""
    draws = np.random.default_rng(5)
    shares = [(float(draws.random() < 0.8), float(draws.random() < 0.4)) for _ in range(60)]
    one, two = (outputs(name, ["a"] * 60) for name in ("m", "n"))
    for made in (one, two):
        made.judge_by(judged(shares))
    opponent = outputs("o", ["b"] * 60)
    alone, both = card(one, opponent).position, card_of({m.name: [Answers(m, opponent)] for m in (one, two)})
    assert both is not None
    assert alone is not None
    assert both.position is not None
    assert both.position.value == pytest.approx(alone.value)
    assert both.position.ci95 == pytest.approx(alone.ci95, abs=0.01)


# ---- planted biases


def over_http(biases: Biases, pairs: int, probed: int, seed: int = 7) -> tuple[JudgeCard, float, float]:
    """The card of a judge behind a server, the win rate by it in both orders, and by the first order alone."""
    draws = np.random.default_rng(seed)

    def texts() -> list[str]:
        ends = zip(draws.normal(0, 1, pairs), draws.integers(1, 9, pairs), strict=True)
        return [f"{i}: quality {value:.4f}" + " and so on" * int(more) for i, (value, more) in enumerate(ends)]

    ours, theirs = outputs("m", texts()), outputs("o", texts())
    prompts = {g.id: g.prompt for g in ours.generations}
    with judging(replace(biases, seed=seed)) as server:
        made = PairwiseSettings(kind="pairwise", model="j", base_url=server.base_url, concurrency=4)
        judge = made.make(RewardContext({}))
        others = [str(g.completion) for g in theirs.generations]
        found = judge.scored(
            list(prompts.values()),
            [str(g.completion) for g in ours.generations],
            columns={OPPONENT_COLUMN: others},
        )
        ours.judge_by([Score(id=i, score=one.score, breakdown=dict(one.breakdown)) for i, one in
                       zip(prompts, found, strict=True)])  # fmt: skip
        probes = probe_judge(judge, [ours], theirs, AskedRows(prompts.__getitem__), probed)
    known = [one for one in found if one.score is not None]
    both = float(np.mean([one.score for one in known if one.score is not None]))
    first = float(np.mean([float(one.breakdown["first"]) for one in known]))  # type: ignore[arg-type]
    return card(ours, theirs, probes), both, first


@pytest.mark.parametrize("position", [0.0, 0.2, 0.4])
def test_a_planted_position_bias_is_found_and_both_orders_remove_it(position: float) -> None:
    """Which answer is better is an even match: any win rate off a half is the judge's. How often the interval holds
    what is planted is counted by benchmarks/judge_card.py; one seed is one draw."""
    found, both, first = over_http(Biases(position=position), 80, 0)
    assert covers(found.position, 0.5 + position / 2)
    assert covers(found.flips, position)
    assert (position == 0) == covers(found.position, 0.5)
    assert abs(both - 0.5) < 0.11  # two standard errors of 80 even matches
    assert first == pytest.approx(both + share(found.position) - 0.5)
    assert found.padded is None


def test_planted_biases_of_length_and_of_chance_are_found() -> None:
    """40 % of pairs by length, of which padding is one more case; 30 % of verdicts drawn anew."""
    found, _, _ = over_http(Biases(length=0.4, noise=0.3), 80, 50)
    # A verdict that is no noise goes by length in 0.4, else by quality, which knows no length; padded answers have
    # their own quality, so that all else is a tie.
    assert covers(found.longer, 0.5 + 0.7 * 0.4 / 2)
    assert covers(found.padded, 0.5 + 0.7 * 0.4 / 2)
    assert share(found.repeated) < 1
    honest, _, _ = over_http(Biases(), 20, 10)
    assert (share(honest.padded), share(honest.repeated)) == (0.5, 1.0)


class Toy(Reward):
    """Scores of an answer's length, or of chance; counts how often it is asked."""

    def __init__(self, likes_length: bool, noise: float = 0.0) -> None:
        self.name, self.signature = "toy", f"toy|{likes_length}|{noise}"
        self.likes_length, self.noise, self.asked = likes_length, noise, 0
        self.draws = np.random.default_rng(1)

    def scored(self, prompts: Any, completions: Any, **_: Any) -> list[Scored]:
        self.asked += len(completions)
        return [Scored(len(text) * self.likes_length + self.noise * self.draws.normal()) for text in completions]


def scored_by(judge: Reward, made: MethodOutputs) -> MethodOutputs:
    texts = [str(g.completion) for g in made.generations]
    made.scores = [
        Score(id=g.id, score=one.score) for g, one in zip(made.generations, judge.scored(texts, texts), strict=True)
    ]
    return made


def toy_card(judge: Reward, folder: Path | None = None, count: int | None = 50) -> JudgeCard:
    ours = scored_by(judge, outputs("m", ["a" * (1 + i % 7) for i in range(80)]))
    theirs = scored_by(judge, outputs("o", ["b" * (1 + i % 5) for i in range(80)]))
    probes = probe_judge(judge, [ours], theirs, AskedRows(lambda key: key), count, folder)
    return card(ours, theirs, probes)


def test_a_scoring_judge_that_likes_length() -> None:
    found = toy_card(Toy(True))
    assert (share(found.longer), share(found.padded), share(found.repeated)) == (1.0, 1.0, 1.0)
    assert found.padded is not None
    assert found.padded.n == 50
    assert (found.position, found.flips) == (None, None)


def test_a_scoring_judge_of_chance_alone() -> None:
    """It repeats itself half of the time, and padding wins as often."""
    found = toy_card(Toy(False, noise=1.0))
    assert covers(found.repeated, 0.5)
    assert covers(found.padded, 0.5)
    assert covers(found.longer, 0.5)


def test_a_judge_that_scores_everything_alike_ties_with_itself() -> None:
    found = toy_card(Toy(False))
    assert (share(found.padded), share(found.repeated), found.smallest_gain) == (0.5, 1.0, None)


def test_probes_are_kept(tmp_path: Path) -> None:
    judge = Toy(False, noise=1.0)
    ours, theirs = (scored_by(judge, outputs(name, [f"{name}{i}" for i in range(30)])) for name in "ab")
    first = probe_judge(judge, [ours], theirs, AskedRows(lambda key: key), 10, tmp_path)
    asked = judge.asked
    assert asked == 60 + 30
    assert len(first) == 10
    assert probe_judge(judge, [ours], theirs, AskedRows(lambda key: key), 10, tmp_path) == first
    assert judge.asked == asked
    other = scored_by(judge, outputs("a", [f"other {i}" for i in range(30)]))
    assert probe_judge(judge, [other], theirs, AskedRows(lambda key: key), 10, tmp_path) != first
    (tmp_path / judge_probes.FILE).write_text(json.dumps({"inputs": 3}))
    assert len(probe_judge(judge, [ours], theirs, AskedRows(lambda key: key), 10, tmp_path)) == 10


def test_a_judge_that_fails_when_asked_again_costs_the_probes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from trimtab.errors import TrimtabError

    class Gone(Toy):
        def again(self) -> Reward:
            raise TrimtabError("it is away.")

    found = toy_card(Gone(True))
    assert (found.padded, found.repeated) == (None, None)
    assert "not known: it is away." in capsys.readouterr().err


def test_answers_are_spread_over_prompts_and_methods() -> None:
    """Of 12 prompts 4, by turns of two methods; what has no judgement, or equal answers, is left out."""
    judge = Toy(True)
    first, second = (scored_by(judge, outputs(name, [f"{name}{i}" for i in range(12)])) for name in ("m", "nn"))
    theirs = scored_by(judge, outputs("o", [f"oo{i}" for i in range(11)] + ["nn11"]))
    first.scores[0] = Score(id="0", score=None, reason="timeout")
    probes = probe_judge(judge, [first, second], theirs, AskedRows(lambda key: key), 4)
    assert [(probe.method, probe.id) for probe in probes] == [("nn", "3"), ("m", "7")]
    assert PADDING.strip().endswith("time.")


def test_families_by_name() -> None:
    names = {
        "Qwen/Qwen2.5-7B-Instruct": "qwen", "meta-llama/Llama-3.1-8B": "llama", "gpt-4o-mini": "gpt",
        "runs/x/best": None, "model": None, "7b": None, "o3": None, "qwen2-0.5b-q8_0.gguf": "qwen",
        "sandbox:instruct": None, "": None,
    }  # fmt: skip
    assert {name: family_of(name) for name in names} == names
    models = {"the models of this study": "Qwen/Qwen3-0.6B", "the opponent": "google/gemma-3-1b-it"}
    assert relatives_of(["qwen3-235b"], models) == ["the models of this study"]
    assert relatives_of(["best"], {"m": "x/best"}) == []


def test_results_and_warnings() -> None:
    """In summarise's results; flips, padding and changes of mind are told."""
    ours, theirs = outputs("m", ["aaa"] * 40), outputs("o", ["bb"] * 40)
    ours.judge_by(judged([(1.0, 0.0)] * 20 + [(1.0, 1.0)] * 20))
    probes = [Probe(method="m", id=str(i), before=1.0, again=float(i % 2), padded=1.0) for i in range(20)]
    about = About("t", judge="j, in pairs", relatives=["the opponent"])
    results = summarise(StudyOutputs({0: [ours]}, (), theirs, probes=probes), about)
    assert results.judge_card is not None
    assert results.judge_card.relatives == ["the opponent"]
    told = "\n".join(results.warnings)
    assert "contradicts itself on 50" in told
    assert "prefers 100" in told
    assert "names another winner on 50" in told
    honest = outputs("m", ["aaa"] * 40)
    honest.judge_by(judged([(1.0, 1.0), (0.0, 0.0)] * 20))
    sound = [Probe(method="m", id=str(i), before=1.0, again=1.0, padded=0.5) for i in range(20)]
    told = "\n".join(summarise(StudyOutputs({0: [honest]}, (), theirs, probes=sound), about).warnings)
    assert not any(word in told for word in ("contradicts", "prefers", "Asked once more"))
