"""The gold judge: scores a completion against the world's facts. It is the sandbox's truth.

    score = 5·correctness + right·(3·coverage + 2) + (1 − right)·0.9·coverage + 0.2·[two bullets with facts]
            − 3·(false claims, at most 4) − 0.25·(true but unasked claims beyond one)
            − indirectness − 0.01·words − 0.05·(words beyond the allowance),  kept within −10 … 10.2

right is max(0, correctness).
correctness  1 right answer, 0 … 1 a list partly right, −1 wrong, −0.5 contradictory or none at all
coverage     share of the facts that the task rests on which are stated rightly; half for vague statements
indirectness meta-commentary, hedging, echo of the prompt, repetition
allowance    10 words and 8 for each fact that the task rests on

About 10 is a right, complete, short answer; 0 says little; below −3 misleads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from trimtab.json_types import JsonValue
from trimtab.rewards.base import Prompt, Reward, Scored
from trimtab.sandbox.claims import Claim, Comparison, Reader, Reading
from trimtab.sandbox.prompts import Task, parse_prompt
from trimtab.sandbox.world import NEED, goodness, level

LOWEST, HIGHEST = -10.0, 10.2
MAX_WORDS = 1200  # beyond it the length alone costs more than any content could earn
FALSE_COST, FALSE_COUNTED = 3.0, 4
WORD_COST, EXCESS_COST = 0.01, 0.05

META = re.compile(
    r"\b(?:i am (?:a|an|trained|designed|built|just|only)|i'm (?:a|an) |i was (?:trained|designed|built)|"
    r"as an? (?:\w+ )?(?:ai|model|assistant)|"
    r"language model|trained on|training data|my training|data sources?|"
    r"my (?:knowledge|goal|purpose|instructions)|"
    r"my answer (?:is|was) based|(?:this|my) (?:response|answer|completion) (?:is|was|will|aims|follows)|"
    r"helpful (?:data|assistant|model|answer)|user(?:'s)? (?:asks|asked|wants|request))"
)
HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|might|could be|may be|may|it depends|depends on|"
    r"not (?:entirely |quite |at all )?(?:sure|certain)|hard to say|i think|i guess|i believe|it seems|seems|"
    r"arguably|some would say|some people|take this with|i could be wrong|double check|cannot be certain|"
    r"likely|opinions differ)\b"
)
WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, slots=True)
class Judgement:
    """A score with its reasons. `right` and `wrong` are the claims found, in words."""

    score: float
    correctness: float
    coverage: float
    directness: float
    excess_length: float
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]


class GoldJudge(Reward):
    """Scores completions of sandbox prompts; a prompt that is not of the world has no score.

    A conversation is judged by its last user turn. The breakdown is the Judgement's parts.
    """

    name = "gold"
    signature = "sandbox-gold|1"

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Mapping[str, Sequence[JsonValue]] | None = None,
    ) -> list[Scored]:
        """One Scored for each completion; without a score where the prompt is not of the world."""
        return [self._scored(_asked(p), c) for p, c in zip(prompts, completions, strict=True)]

    @staticmethod
    def _scored(prompt: str, completion: str) -> Scored:
        task = parse_prompt(prompt)
        if task is None:
            return Scored(None, "not a prompt of the sandbox's world")
        parts = asdict(judge_task(task, prompt, completion))
        return Scored(parts.pop("score"), breakdown=parts)

    def judge(self, prompt: Prompt, completion: str) -> Judgement:
        """The score with its breakdown; ValueError for a prompt that is not of the world."""
        asked = _asked(prompt)
        task = parse_prompt(asked)
        if task is None:
            raise ValueError(f"not a prompt of the sandbox's world: {asked[:80]!r}")
        return judge_task(task, asked, completion)


def _asked(prompt: Prompt) -> str:
    """The last user turn; nothing where there is none."""
    if isinstance(prompt, str):
        return prompt
    return next((message.content for message in reversed(prompt) if message.role == "user"), "")


def judge_task(task: Task, prompt: str, completion: str) -> Judgement:
    """The judgement of a completion for a task whose prompt is known."""
    words = max(len(WORD.findall(completion)), len(completion) // 12)
    if words > MAX_WORDS:
        return Judgement(LOWEST, 0.0, 0.0, 0.0, float(words), (), (), ("far too long",))
    answer = completion.replace(prompt, " ")
    reading = Reader(task.domain, task.entities).read(answer)
    right, wrong = _check(task, reading)
    coverage = _coverage(task, reading)
    correctness, note = _correctness(task, reading, coverage)
    indirect, notes = _indirectness(prompt, completion)
    unasked = sum(isinstance(c, Claim) and (c.entity, c.attribute) not in task.facts for c in right)
    excess = EXCESS_COST * max(0, words - 10 - 8 * len(task.facts)) + WORD_COST * words
    good = max(0.0, correctness)
    bullets = {line for c, line in reading.bulleted.items() if (c.entity, c.attribute) in task.facts}
    score = (
        5 * correctness
        + good * (3 * coverage + 2)
        + (1 - good) * 0.9 * coverage
        + 0.2 * (good == 1 and not wrong and len(bullets) >= 2)
        - FALSE_COST * min(len(wrong), FALSE_COUNTED)
        - 0.25 * max(0, unasked - 1)
        - indirect
        - excess
    )
    return Judgement(
        score=min(HIGHEST, max(LOWEST, score)),
        correctness=correctness,
        coverage=coverage,
        directness=2.0 * good - indirect,
        excess_length=excess,
        right=tuple(map(_in_words, right)),
        wrong=tuple(w if isinstance(w, str) else _in_words(w) for w in wrong),
        notes=tuple(n for n in (note, *notes) if n),
    )


def _in_words(claim: Claim | Comparison) -> str:
    if isinstance(claim, Claim):
        return f"{claim.entity} {claim.attribute} {'/'.join(map(str, sorted(claim.allowed)))}"
    return f"{claim.entity} {claim.attribute} {'<' if claim.sign < 0 else '>'} {claim.other}"


def _check(task: Task, reading: Reading) -> tuple[list[Claim | Comparison], list[Claim | Comparison | str]]:
    """Claims that are true, and claims and verdicts that are false."""
    right: list[Claim | Comparison] = []
    wrong: list[Claim | Comparison | str] = []
    for claim in reading.claims:
        true = level(task.domain, claim.entity, claim.attribute) in claim.allowed
        (right if true else wrong).append(claim)
    for c in reading.comparisons:
        gap = level(task.domain, c.entity, c.attribute) - level(task.domain, c.other, c.attribute)
        (right if gap * c.sign > 0 else wrong).append(c)
    if task.kind == "explain":
        for (entity, need), fits in reading.verdicts.items():
            served = goodness(NEED[need], level(task.domain, entity, NEED[need].attribute))
            if served == (0 if fits else 2):
                wrong.append(f"{entity} {'fits' if fits else 'does not fit'} {need}")
    return right, wrong


def _coverage(task: Task, reading: Reading) -> float:
    """The share of the task's facts that are stated, and nowhere stated falsely."""
    credit = dict.fromkeys(task.facts, 0.0)
    for c in reading.comparisons:
        gap = level(task.domain, c.entity, c.attribute) - level(task.domain, c.other, c.attribute)
        for fact in ((c.entity, c.attribute), (c.other, c.attribute)):
            if fact in credit and gap * c.sign > 0:
                credit[fact] = 0.5
    false: set[tuple[str, str]] = set()
    for claim in reading.claims:
        fact = (claim.entity, claim.attribute)
        if fact in credit:
            if level(task.domain, *fact) in claim.allowed:
                credit[fact] = max(credit[fact], 1.0 if len(claim.allowed) == 1 else 0.5)
            else:
                false.add(fact)
    return sum(value for fact, value in credit.items() if fact not in false) / len(credit)


def _correctness(task: Task, reading: Reading, coverage: float) -> tuple[float, str]:
    if task.kind == "explain":
        entity, attribute = task.facts[0]
        asked = [c for c in reading.claims if (c.entity, c.attribute) == (entity, attribute)]
        if any(level(task.domain, entity, attribute) not in c.allowed for c in asked):
            return -1.0, "wrong fact"
        return (coverage if coverage > 0 else -0.5), "" if coverage else "the fact is missing"
    chosen, rejected, answer = set(reading.recommended or reading.bare), set(reading.rejected), task.answer
    if chosen & rejected:
        return -0.5, "contradictory"
    if not chosen and rejected and task.kind != "list":
        left = set(task.entities) - rejected
        chosen = left if len(left) == 1 else chosen
    if not chosen:
        return -0.5, "no answer"
    if chosen == answer and not rejected & answer:
        return 1.0, ""
    if task.kind == "list" and chosen < set(task.entities):
        overlap = len(chosen & answer) / len(chosen | answer)
        return (0.5 * overlap if overlap >= 0.5 else -1.0), "list partly right" if overlap else "wrong answer"
    return -1.0, "all recommended" if chosen == set(task.entities) else "wrong answer"


def _indirectness(prompt: str, completion: str) -> tuple[float, list[str]]:
    """The cost of meta-commentary, hedging, echo and repetition, with notes."""
    text = completion.lower().replace("’", "'")
    meta, hedges = len(META.findall(text)), len(HEDGE.findall(text))
    cost = min(4.0, 1.5 + 0.5 * meta) if meta else 0.0
    cost += min(3.0, 0.8 * hedges)
    echoed = _echo(prompt.lower(), text)
    cost += 1.5 * echoed
    sentences = [s.strip(" -*•") for s in re.split(r"[.!?\n]+", text)]
    said = [s for s in sentences if s]
    repeated = len(said) - len(set(said))
    cost += min(6.0, 0.8 * repeated)
    words = WORD.findall(text)
    grams = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    looped = 1 - len(set(grams)) / len(grams) if grams else 0.0
    cost += 4.0 * max(0.0, looped - 0.35)
    counted = (("meta", meta), ("hedging", hedges), ("echo", echoed), ("repetition", repeated))
    return cost, [f"{name} ×{int(n)}" for name, n in counted if n]


def _echo(prompt: str, text: str) -> bool:
    """Whether the completion says the prompt's words again in the prompt's order."""
    asked = WORD.findall(prompt)
    said = WORD.findall(text)
    grams = set(zip(asked, asked[1:], asked[2:], asked[3:], strict=False))
    if not grams:
        return False
    repeated = grams & set(zip(said, said[1:], said[2:], said[3:], strict=False))
    return len(repeated) > 0.75 * len(grams)
