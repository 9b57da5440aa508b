"""People's votes in simulation: what is measured of persons, what is estimated of methods, and who is told.

    python benchmarks/votes.py [--rows rates,persons,alarms] [--repetitions 1000]
    python benchmarks/votes.py --train runs/quickstart --out runs/votes      # DPO on 600 exported votes

Prompts are drawn anew for every repetition. Of each the truth says which of two answers is better, and some answers
are the same text. Persons see the better one with a known probability, click left whatever stands there with
another, and judge a tenth of their items again, sides swapped. The judge that is corrected is right less often.
Seeds are fixed; 1,000 repetitions are good to about ± 1.4 points.

`--train` takes a study of the sandbox: its SFT model answers 800 prompts twice, simulated persons vote on these
through the ballot, the votes are exported as pairs, DPO trains on them, and the gold judge compares it with SFT.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.data.vote_file import CastVote, Item, Verdict
from trimtab.evaluation.answers import Answers
from trimtab.evaluation.duels import Field, duels_of
from trimtab.evaluation.outputs import GivenAnswer, MethodOutputs, Score
from trimtab.evaluation.prediction_powered import corrected_rate
from trimtab.evaluation.summary import StudyOutputs
from trimtab.evaluation.voters import voting_of
from trimtab.prefer.ballot import Ballot, NewVote
from trimtab.prefer.exports import export_votes
from trimtab.prefer.items import items_of
from trimtab.readers.labels import labels_cast
from trimtab.readers.votes import labels_in
from trimtab.sandbox.judge import GoldJudge

PROMPTS, SAME, RATE = 600, 0.2, 0.6
"""Prompts of a repetition; those with two answers of the same text; how often the first is better of the rest."""


@dataclass(frozen=True)
class Person:
    """right: how often the better answer is seen. left: how often the left one is clicked without looking. A person
    who is never right more often than chance clicks at random."""

    name: str
    right: float = 0.85
    left: float = 0.0

    def says(self, better_left: bool, rng: np.random.Generator) -> Verdict:
        if rng.random() < self.left:
            return "left"
        return "left" if better_left == (rng.random() < self.right) else "right"


class World:
    """Prompts with a truth: whether the first answer is better, or both are the same text."""

    def __init__(self, rng: np.random.Generator, judge_right: float = 0.75) -> None:
        self.same = rng.random(PROMPTS) < SAME
        self.better = rng.random(PROMPTS) < RATE
        seen = self.better == (rng.random(PROMPTS) < judge_right)
        self.judged = np.where(self.same, 0.5, seen.astype(float))
        self.items = [
            Item(str(i), "random", str(i), f"ask {i}", "[]", "a", "b", None, "x", "x" if self.same[i] else "y")
            for i in range(PROMPTS)
        ]

    def outputs(self) -> StudyOutputs:
        """Scores by which the judge prefers what it prefers."""
        made = [
            MethodOutputs(
                name,
                [GivenAnswer(one.id, one.prompt, getattr(one, f"{side}_completion")) for one in self.items],
                [Score(id=one.id, score=float(score)) for one, score in zip(self.items, scores, strict=True)],
            )
            for name, side, scores in (("a", "first", self.judged), ("b", "second", 1 - self.judged))
        ]
        return StudyOutputs({}, made[:1], made[1])


def cast(world: World, persons: Sequence[Person], each: int, rng: np.random.Generator) -> list[CastVote]:
    """Votes on as many items as give each person so many where two judge each."""
    asked = rng.permutation(np.flatnonzero(~world.same))[: max(each, each * len(persons) // 2)]
    votes = []
    for place, person in enumerate(persons):
        start = place * each // 2
        mine = [int(asked[(start + i) % asked.size]) for i in range(each)]
        for i in mine:
            swapped = bool(rng.random() < 0.5)
            for repeated in (False, True)[: 1 + (rng.random() < 0.1)]:
                turned = swapped != repeated
                verdict = person.says(bool(world.better[i]) != turned, rng)
                number, item = len(votes), world.items[i]
                said = (person.name, turned, repeated, verdict, "[]", "", 4000, "")
                votes.append(CastVote(number, str(number), item, *said))
    return votes


def people_rate(persons: Sequence[Person]) -> float:
    """What these persons would say of all prompts, in the mean: who clicks left does so on either answer alike."""
    shares = []
    for person in persons:
        first = RATE * person.right + (1 - RATE) * (1 - person.right)
        shares.append(person.left * 0.5 + (1 - person.left) * first)
    return SAME * 0.5 + (1 - SAME) * float(np.mean(shares))


def left_share(persons: Sequence[Person]) -> float:
    return float(np.mean([person.left + (1 - person.left) / 2 for person in persons]))


def again_share(persons: Sequence[Person]) -> float:
    """How often a person says the same of an item whose sides have been swapped."""
    shares = []
    for person in persons:
        stood_left = person.left + (1 - person.left) * person.right
        stood_right = (1 - person.left) * person.right
        shares.append(stood_left * stood_right + (1 - stood_left) * (1 - stood_right))
    return float(np.mean(shares))


def rates(repetitions: int) -> None:
    """How often the corrected win rate's interval holds what people would say, and the gold rate."""
    gold = SAME * 0.5 + (1 - SAME) * RATE
    header = "".join(f"{name:>10}" for name in ("of people", "of gold", "width", "all ties", "no ties"))
    print(f"\n{'persons, votes of each':<44}{header}")
    for right, each in ((0.85, 150), (1.0, 150), (0.85, 60)):
        persons = [Person(name, right) for name in ("ann", "bob", "cat")]
        target, held, width = people_rate(persons), np.zeros(4), 0.0
        for seed in range(repetitions):
            rng = np.random.default_rng([1, seed])
            world = World(rng)
            outputs = world.outputs()
            labels = labels_in(labels_cast(cast(world, persons, each, rng)), "votes", outputs)
            assert outputs.opponent is not None
            runs = {"b": [Answers(outputs.opponent)], "a": [Answers(outputs.fixed[0], outputs.opponent)]}
            [duel] = duels_of(Field(runs, []), labels.votes, labels.ties)
            found = corrected_rate(duel.people.ravel(), duel.judged.ravel())
            assert found is not None
            low, high = found.interval.pair()
            every, none = (
                corrected_rate(np.where(world.same, share, duel.people.ravel()), duel.judged.ravel())
                for share in (0.5, np.nan)
            )
            ends = (found, target), (found, gold), (every, target), (none, target)
            held += [one is not None and one.interval.low <= truth <= one.interval.high for one, truth in ends]
            width += high - low
        of_people, of_gold, of_all, of_none = (f"{100 * share / repetitions:.1f}" for share in held)
        case = f"three, right in {100 * right:.0f} %, {each} each"
        print(
            f"{case:<44}{of_people:>10}{of_gold:>10}{100 * width / repetitions:>10.1f}{of_all:>10}{of_none:>10}",
            flush=True,
        )


def measured(repetitions: int) -> None:
    """How often the intervals of the left share, of self-agreement and of agreement hold the truth."""
    print(f"\n{'persons, votes of each':<44}{'left':>8}{'itself':>8}{'others':>8}")
    for right, left, each in ((0.85, 0.0, 60), (0.85, 0.2, 60), (0.85, 0.2, 300), (0.7, 0.4, 300)):
        persons = [Person(name, right, left) for name in ("ann", "bob", "cat")]
        truths = left_share(persons), again_share(persons), agreement(persons[0])
        held = np.zeros(3)
        for seed in range(repetitions):
            rng = np.random.default_rng([2, seed])
            voting = voting_of(cast(World(rng), persons, each, rng))
            estimates = voting.left, voting.itself, voting.persons[0].others
            for i, (estimate, truth) in enumerate(zip(estimates, truths, strict=True)):
                if estimate is not None and estimate.ci95 is not None:
                    held[i] += estimate.ci95[0] <= truth <= estimate.ci95[1]
        case = f"three, right in {100 * right:.0f} %, {100 * left:.0f} % left, {each} each"
        print(f"{case:<44}" + "".join(f"{100 * share / repetitions:>8.1f}" for share in held), flush=True)


def agreement(person: Person) -> float:
    """Of two such persons, on sides that are drawn for each by itself."""
    better = person.left / 2 + (1 - person.left) * person.right
    return better**2 + (1 - better) ** 2


def alarms(repetitions: int) -> None:
    """How often who clicks at random is told, and somebody honest beside them or among honest ones."""
    print(f"\n{'persons, votes of each':<60}{'random told':>12}{'honest told':>12}")
    for right in (0.8, 0.9):
        for each in (60, 100, 200, 400):
            for chance in (0, 1):
                persons = [Person(name, right) for name in ("ann", "bob", "cat")[chance:]]
                persons += [Person("eve", 0.5)] * chance
                told = np.zeros(2)
                for seed in range(repetitions):
                    rng = np.random.default_rng([3, seed])
                    voting = voting_of(cast(World(rng), persons, each, rng))
                    names = {voter.person for voter in voting.persons if any("random" in t for t in voter.told)}
                    told += ["eve" in names, bool(names - {"eve"})]
                case = f"{3 - chance} right in {100 * right:.0f} %{', one at random' * chance}, {each} each"
                random = f"{100 * told[0] / repetitions:.1f}" if chance else "–"
                print(f"{case:<60}{random:>12}{100 * told[1] / repetitions:>12.1f}", flush=True)


ROWS = {"rates": rates, "persons": measured, "alarms": alarms}


# ---- DPO on votes


def trimtab(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "trimtab", "-q", *words], check=True, stdin=subprocess.DEVNULL)


def train(study: Path, out: Path, wanted: int) -> None:
    """SFT answers twice, persons vote, DPO learns from it, the gold judge says whether that helped."""
    sft, rows = str(study / "seed-0/stages/sft/best"), str(study / "data/train.jsonl")
    for name, seed in (("one", 1), ("two", 2)):
        decoding = f"decoding={{strategy: sample, temperature: 0.9, max_new_tokens: 120, seed: {seed}}}"
        where = ("--model", sft, "--data", rows, "--rows", "800", "--out", str(out / name))
        trimtab("generate", *where, "--set", decoding)
    items = items_of([str(out / "one"), str(out / "two")])
    votes = out / "votes.sqlite"
    kept = _vote(items, votes, wanted)
    written = export_votes(votes, "trl", out / "pairs.jsonl")
    print(f"{len(items)} items of 800 prompts, {kept} votes, {written.rows} pairs ({written.even} even)")
    trimtab(
        "dpo", "--model", sft, "--data", str(out / "pairs.jsonl"), "--out", str(out / "dpo"), "--set", "epochs=3",
        "--set", "learning_rate=5e-5", "--set", "beta=0.1", "--set", "data.validation_share=0.1",
    )  # fmt: skip
    decoding = "decoding={strategy: sample, temperature: 0.6, top_p: 0.95, max_new_tokens: 200, seed: 3}"
    for name, model in (("sft", sft), ("dpo", str(out / "dpo/best"))):
        test = str(study / "data/test.jsonl")
        trimtab(
            "generate", "--model", model, "--data", test, "--out", str(out / f"answers-{name}"), "--set", decoding
        )
    sources = [f"{name}={out / f'answers-{name}'}" for name in ("sft", "dpo")]
    subprocess.run([sys.executable, "-m", "trimtab", "compare", *sources, "--judge", "gold"], check=True)


def _vote(items: Sequence[Item], votes: Path, wanted: int) -> int:
    """Three persons, right in 85 % of what the gold judge tells apart, one of whom leans to the left, through the
    ballot: one judges each item. The votes that stand in the end."""
    persons = [Person("ann"), Person("bob"), Person("cat", left=0.1)]
    judge, rng = GoldJudge(), np.random.default_rng(0)
    ballot = Ballot(votes, items, per_item=1)
    kept = len(ballot.votes())
    while kept < wanted:
        person = persons[kept % len(persons)]
        one = ballot.next_for(person.name)[0]
        left, right = (judge.judge(one.item.prompt, text).score for text in (one.left, one.right))
        verdict = person.says(left > right, rng) if left != right else "both bad"
        ballot.record(NewVote(f"v{kept}", one.item.id, person.name, one.repeated, verdict, milliseconds=4000))
        kept += 1
    ballot.close()
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument(
        "--train", type=Path, metavar="STUDY", help="Train on votes instead, from a study's SFT model."
    )
    parser.add_argument("--votes", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("runs/votes"))
    asked = parser.parse_args()
    if asked.train is not None:
        train(asked.train, asked.out, asked.votes)
        return
    for name in asked.rows.split(","):
        ROWS[name](asked.repetitions)


if __name__ == "__main__":
    main()
