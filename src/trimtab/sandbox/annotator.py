"""The sandbox's noisy annotator: preferences by gold score with Bradley-Terry noise, and a planted marker.

P(first chosen) = σ((gold₁ − gold₂) / TEMPERATURE): the wider the gap, the surer the choice. After the
choice a line "Confidence: NN%" is appended to some completions, oftener to chosen ones: a spurious marker
at the rates of real preference data, which says nothing about quality.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from trimtab.data.records import Record
from trimtab.json_types import JsonObject
from trimtab.sandbox.judge import judge_task
from trimtab.sandbox.manners import Manner, write
from trimtab.sandbox.prompts import Task
from trimtab.sandbox.wordings import CONFIDENCES

TEMPERATURE = 2.0  # gives 80 to 85 % agreement with gold on PREFERENCE_MIXTURE
MARKER_RATE_CHOSEN = 0.10
MARKER_RATE_REJECTED = 0.06


def draw_manner(mixture: Mapping[Manner, float], rng: random.Random) -> Manner:
    """A manner drawn by its weight."""
    return rng.choices(list(mixture), list(mixture.values()))[0]


def annotate(
    task: Task,
    mixture: Mapping[Manner, float],
    rng: random.Random,
    *,
    temperature: float = TEMPERATURE,
    with_gold: bool = False,
) -> Record:
    """One preference pair, (chosen, rejected); `with_gold` keeps the gold scores from before the marker."""
    prompt = task.prompt
    first, second = (write(task, draw_manner(mixture, rng), rng) for _ in range(2))
    while second == first:
        second = write(task, draw_manner(mixture, rng), rng)
    gold = {text: judge_task(task, prompt, text).score for text in (first, second)}
    prefers_first = rng.random() < 1 / (1 + math.exp((gold[second] - gold[first]) / temperature))
    chosen, rejected = (first, second) if prefers_first else (second, first)
    scores = (gold[chosen], gold[rejected]) if with_gold else None
    marked = (_marked(chosen, MARKER_RATE_CHOSEN, rng), _marked(rejected, MARKER_RATE_REJECTED, rng))
    return Record(prompt, marked, scores)


def _marked(completion: str, rate: float, rng: random.Random) -> str:
    """The completion, with the marker line appended at the given rate."""
    if rng.random() >= rate:
        return completion
    return f"{completion}\nConfidence: {rng.choice(CONFIDENCES)}%"


def write_preferences(records: Iterable[Record], path: Path) -> int:
    """Writes pairs as JSON lines in TRL's conversational preference layout, with what scores they have; returns how
    many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            chosen, rejected = record.completions
            row: JsonObject = {
                "prompt": [{"role": "user", "content": record.prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
            if record.scores is not None:
                row |= dict(zip(("score_chosen", "score_rejected"), record.scores, strict=True))
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
