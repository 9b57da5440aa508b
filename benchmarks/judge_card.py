"""What a judge's card finds of biases whose size is known, on the sandbox's answers: the tables of docs/judges.md.

    PYTHONPATH=tests python benchmarks/judge_card.py [--pairs 400] [--repetitions 1000]

position: a judge of pairs behind a server on loopback, over HTTP, with the truth of the sandbox's own judge and
0 to 40 % of its verdicts decided by the first place. "Ours" is the better answer of every second pair, so that any
win rate off a half is the judge's. coverage: how often the card's intervals hold what is planted, of the same judge
without the way over HTTP.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from servers.judge_server import Biases, judging
from trimtab.evaluation.answers import Answers
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.judge_card import JudgeCard, card_of
from trimtab.evaluation.judge_probes import AskedRows, probe_judge
from trimtab.evaluation.outputs import Generation, MethodOutputs, Score
from trimtab.rewards.base import OPPONENT_COLUMN, Columns, Prompt, Reward, Scored
from trimtab.rewards.pairwise import RUBRIC, VERDICTS, PairwiseSettings, both_orders, question
from trimtab.rewards.settings_base import RewardContext
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.judge import GoldJudge


@dataclass(frozen=True)
class World:
    """Prompts of the sandbox with two answers each, and how good every answer is."""

    prompts: list[Prompt]
    one: list[str]
    other: list[str]
    truth: dict[str, float]


def world(count: int) -> World:
    """Pairs of answers of different score and length."""
    records = [r for r in preference_data("train", 3 * count, 0) if len({len(text) for text in r.completions}) == 2]
    texts = [text for record in records for text in record.completions]
    prompts = [record.prompt for record in records for _ in record.completions]
    truth = {text: one.score or 0.0 for text, one in zip(texts, GoldJudge().scored(prompts, texts), strict=True)}
    kept = [r for r in records if truth[r.completions[0]] != truth[r.completions[1]]][:count]
    return World(
        [r.prompt for r in kept], [r.completions[0] for r in kept], [r.completions[1] for r in kept], truth
    )


class Planted(Reward):
    """The server's verdicts without the server."""

    compares = True

    def __init__(self, biases: Biases, attempt: int = 0) -> None:
        self.name, self.biases, self.attempt = "planted", biases, attempt
        self.signature = f"planted|{biases.seed}|{attempt}"

    def again(self) -> Reward:
        """The same judge; what it draws anew, it draws anew."""
        return Planted(self.biases, self.attempt + 1)

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """Both orders of each pair."""
        assert columns is not None
        found = []
        for prompt, ours, theirs in zip(prompts, completions, columns[OPPONENT_COLUMN], strict=True):
            orders = [(ours, str(theirs)), (str(theirs), ours)]
            said = [self.biases.verdict(question(RUBRIC, prompt, *pair), self.attempt) for pair in orders]
            found.append(both_orders(*(Scored(VERDICTS[one]) for one in said)))
        return found


def carded(judge: Reward, rows: World, turned: Sequence[bool], probed: int) -> tuple[JudgeCard, float, float]:
    """The card, the win rate of both orders, and that of the first order alone. turned: where the other answer is
    ours."""
    sides = [(b, a) if turn else (a, b) for a, b, turn in zip(rows.one, rows.other, turned, strict=True)]
    made = [
        MethodOutputs(name, [Generation(id=str(i), prompt=f"{i}", completion=pair[side], tokens=1, terminated=True)
                             for i, pair in enumerate(sides)])
        for side, name in enumerate(("ours", "theirs"))
    ]  # fmt: skip
    others = {OPPONENT_COLUMN: [theirs for _, theirs in sides]}
    found = judge.scored(rows.prompts, [ours for ours, _ in sides], columns=others)
    made[0].judge_by([Score(id=str(i), score=o.score, breakdown=dict(o.breakdown)) for i, o in enumerate(found)])
    asked = AskedRows(lambda place: rows.prompts[int(place)])
    card = card_of({"ours": [Answers(*made)]}, probe_judge(judge, [made[0]], made[1], asked, probed))
    assert card is not None
    first = np.mean([float(str(one.breakdown["first"])) for one in found])
    return card, float(np.mean([one.score for one in found if one.score is not None])), float(first)


def text(estimate: Estimate | None) -> str:
    """In per cent, with its interval."""
    assert estimate is not None
    assert estimate.ci95 is not None
    return f"{100 * estimate.value:5.1f} [{100 * estimate.ci95[0]:5.1f}, {100 * estimate.ci95[1]:5.1f}]"


def holds(estimate: Estimate | None, value: float) -> bool:
    """Whether its interval holds a value."""
    assert estimate is not None
    assert estimate.ci95 is not None
    return estimate.ci95[0] <= value <= estimate.ci95[1]


def position(pairs: int) -> None:
    """Over HTTP, by the size of the bias."""
    rows = world(pairs)
    better = [rows.truth[one] > rows.truth[other] for one, other in zip(rows.one, rows.other, strict=True)]
    turned = [ahead != (place % 2 == 0) for place, ahead in enumerate(better)]
    print(f"position, {pairs} pairs over HTTP; an unbiased judge gives a win rate of 50 %")
    print("planted  first shown wins, %    holds it  flips, %  win rate, both orders  first order alone")
    for planted in (0.0, 0.1, 0.2, 0.3, 0.4):
        with judging(Biases(position=planted, seed=round(100 * planted), truth=rows.truth)) as server:
            settings = PairwiseSettings(kind="pairwise", model="j", base_url=server.base_url)
            card, both, first = carded(settings.make(RewardContext({})), rows, turned, 0)
        held = "yes" if holds(card.position, 0.5 + planted / 2) else "no"
        assert card.flips is not None
        shown = f"{planted:6.0%}   {text(card.position)}  {held:<8}  {100 * card.flips.value:7.1f}"
        print(f"{shown}  {100 * both:20.1f}  {100 * first:17.1f}", flush=True)


def coverage(repetitions: int) -> None:
    """How often intervals hold what is planted; 100 pairs, all of them probed."""
    rows = world(100)
    cases = [Biases(position=0.2), Biases(position=0.4), Biases(length=0.2), Biases(length=0.4), Biases(noise=0.3)]
    print(f"coverage, 100 pairs, {repetitions} repetitions: share of intervals that hold what is planted, %")
    for planted in cases:
        held: dict[str, list[bool]] = {}
        for seed in range(repetitions):
            biases = replace(planted, seed=seed, truth=rows.truth)
            turned = np.random.default_rng(seed).random(100) < 0.5
            card, _, _ = carded(Planted(biases), rows, list(turned), 100)
            if planted.position:
                held.setdefault("position", []).append(holds(card.position, 0.5 + planted.position / 2))
                held.setdefault("flips", []).append(holds(card.flips, planted.position))
            elif planted.length:
                held.setdefault("padded", []).append(holds(card.padded, 0.5 + planted.length / 2))
            else:
                held.setdefault("repeated", []).append(holds(card.repeated, same_winner(planted.noise)))
        known = {name: value for name, value in vars(planted).items() if value and name != "truth"}
        shown = ", ".join(f"{name} {100 * np.mean(each):.1f}" for name, each in held.items())
        print(f"{known!s:<20} {shown}", flush=True)


def same_winner(noise: float) -> float:
    """How often a judge names the same winner twice, each of whose verdicts is a coin's with this chance and
    else right. Both of a pair are right with chance r², r = 1 − noise / 2, and both wrong with (1 − r)²."""
    right = 1 - noise / 2
    chances = [right**2, (1 - right) ** 2, 2 * right * (1 - right)]
    return float(sum(chance**2 for chance in chances))


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--repetitions", type=int, default=1000)
    given = parser.parse_args()
    position(given.pairs)
    coverage(given.repetitions)


if __name__ == "__main__":
    main()
