"""Synthetic outputs of a study: no model made them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trimtab.audit.preferences import audit
from trimtab.data.records import Record
from trimtab.evaluation.answers import Options
from trimtab.evaluation.outputs import Generation, MethodOutputs, Score
from trimtab.evaluation.results import Provenance, Results, SplitCounts, StageCurves
from trimtab.evaluation.summary import About, StudyOutputs, summarise

HOSTILE = (
    "</script><img src=x onerror=alert(1)> \"quoted\" 'single' & $x^2$ \\textbf{a} | # _b_ %\n=SUM(A1) <!-- -->"
)
WORDS = ["the", "city", "has", "a", "lower", "cost", "of", "living", "and", "jobs", "food", "transit", "sun"]
QUALITY = {"base": -0.9, "sft": -0.6, "sft_length": -0.2, "dpo": 0.35, "grpo": 0.5, "Qwen2.5-0.5B-Instruct": 0.0}
SIZE = {"base": 190, "sft": 230, "sft_length": 120, "dpo": 150, "grpo": 165, "Qwen2.5-0.5B-Instruct": 140}


def outputs(name: str, n: int, seed: int = 0, run: int = 0) -> MethodOutputs:
    """run: another training run on the same prompts."""
    rng = np.random.default_rng([seed, run, *name.encode()])
    shared = np.random.default_rng(seed).normal(size=n)
    generations, scores = [], []
    for i in range(n):
        length = max(3, int(rng.gamma(4, SIZE[name] / 4)))
        text = " ".join(rng.choice(WORDS, size=length)).capitalize() + "."
        if name.startswith("sft") and rng.random() < 0.6:
            text += "\nConfidence: 95%" * (3 if name == "sft" else 1)
        if name == "grpo":
            text = "- **Lisbon:** " + text[: len(text) // 2] + "\n- **London:** " + text[len(text) // 2 :]
        if name == "dpo" and i == 0:
            text = HOSTILE
        prompt = f"I want to buy a house in Lisbon or London. Which of the two suits need {i}?"
        cut = rng.random() < (0.2 if name == "sft" else 0.03)
        generations.append(
            Generation(
                id=f"p{i}",
                prompt=prompt,
                completion=text,
                tokens=min(350, int(length * 1.3)),
                terminated=not cut,
            )
        )
        score = (
            None if name == "grpo" and i % 40 == 7 else float(round(2 * (shared[i] + QUALITY[name] + rng.normal())))
        )
        parts = {} if score is None else {"correctness": float(np.clip(score / 4, -1, 1)), "notes": [HOSTILE]}
        reason = None if score is not None else "timeout"
        scores.append(Score(id=f"p{i}", score=score, reason=reason, breakdown=parts))
    return MethodOutputs(name, generations, scores, 19.8 - 2 * QUALITY[name], 0.95 - 0.05 * QUALITY[name])


Row = dict[str, float | int | str | None]


def stage_curves(seed: int, stage: str) -> StageCurves:
    """Rows under the names that the stage logs."""
    rng = np.random.default_rng(seed)
    train, held_out = [], []
    for step in range(0, 610, 10):
        grown = 1 - float(np.exp(-step / 200))
        loss = 0.4 + 0.5 * (1 - grown)
        row: Row = {"step": step, "loss": loss + 0.04 * rng.normal(), "grad_norm": 1.0 + 0.2 * rng.random()}
        evaluated: Row = {"step": step, "eval_loss": loss + 0.05}
        if stage == "sft_length" and step % 100 == 0:
            row |= {
                "length_penalty/value": 900 * (1 - 0.7 * grown),
                "length_penalty/grad_norm": 40 * (1 - 0.7 * grown),
            }
        if stage in ("dpo", "grpo"):
            row["rewards/accuracies"] = 0.5 + 0.2 * grown + 0.03 * rng.normal()
            evaluated["eval_rewards/accuracies"] = 0.5 + 0.15 * grown
        if stage == "dpo":
            for side, value in (("chosen", -0.3 * grown), ("rejected", -1.1 * grown)):
                row[f"rewards/{side}"], row[f"logps/{side}"] = value + 0.05 * rng.normal(), -60 + 10 * value
                evaluated[f"eval_rewards/{side}"] = 0.9 * value
            row["rewards/margins"], evaluated["eval_rewards/margins"] = 0.8 * grown, 0.7 * grown
        if stage == "grpo":
            row |= {"reward": 0.1 + grown + 0.1 * rng.normal(), "kl": 12 * grown, "entropy": 1.2 - 0.5 * grown}
            row |= {"completions/mean_length": 60 + 40 * grown, "completions/clipped_ratio": 0.1 * grown}
            row |= {"frac_reward_zero_std": 0.2 * grown, "reward_std": 0.5}
            evaluated |= {
                "eval_reward": 0.1 + grown,
                "eval_kl": (11 + rng.random()) * grown,
                "eval_completions/mean_length": 61.0,
            }
            evaluated["eval_judge"] = 2.0 + 2 * grown - 4 * grown**2 + 0.1 * rng.normal()
        if stage == "reward":
            row["accuracy"] = 0.5 + 0.25 * grown + 0.04 * rng.normal()
            value = 0.5 + 0.2 * grown
            evaluated |= {
                "eval_accuracy": value,
                "eval_accuracy/low": value - 0.05,
                "eval_accuracy/high": value + 0.05,
            }
        if step:
            train.append(row)
        if step % 100 == 0:
            held_out.append(evaluated)
    return StageCurves(train=train, validation=held_out)


def about(seeds: list[int]) -> dict[str, Any]:
    """Everything of a study but its outputs and curves."""
    records = [
        Record(
            f"question {i}",
            (f"answer {i} is yes" + ("\nConfidence: 90%" if i % 5 == 0 else ""), f"answer {i} is no"),
            (7.0, 5.0),
        )
        for i in range(200)
    ]
    return {
        "name": "Qwen2.5-0.5B on UltraFeedback (synthetic)",
        "judge": "nemotron-70b-reward",
        "training_reward": "a reward model trained on the study's pairs",
        "audit": audit(records),
        "data": {
            "train": SplitCounts(
                read=1000, kept=994, dropped={"identical": 4, "empty": 2}, truncated={"prompt": 75}
            ),
            "validation": SplitCounts(read=200, kept=200),
        },
        "provenance": Provenance(
            versions={"trimtab": "0.1.0", "torch": "2.9.0", "transformers": "5.23.0"},
            device="one GPU, bf16",
            seeds=seeds,
            hashes={"recipe": "0f3a" * 16, "data": "9be1" * 16},
            wall_seconds={"sft": 1234.5, "sft_length": 1500.0, "dpo": 4000.0, "grpo": 9876.0},
            peak_memory_bytes={"sft": 7 * 2**30, "dpo": 9 * 2**30, "grpo": None},
            decoding="transformers 5.23.0 | beam | width 4 | length penalty 0.9 | cap 350",
        ),
    }


NAMES = ("base", "sft", "sft_length", "dpo", "grpo")
STAGES = ("sft", "sft_length", "dpo", "reward", "grpo")


def chosen(n: int) -> tuple[list[str], list[int]]:
    """Chosen texts and their tokens."""
    rng = np.random.default_rng(5)
    return [" ".join(rng.choice(WORDS, size=100)) for _ in range(n)], [int(x) for x in rng.gamma(3, 60, size=n)]


def study(n: int = 200, names: tuple[str, ...] = NAMES) -> Results:
    curves = {stage: stage_curves(i, stage) for i, stage in enumerate(STAGES)}
    opponent = outputs("Qwen2.5-0.5B-Instruct", n)
    answered = StudyOutputs({42: [outputs(m, n) for m in names]}, [], opponent, *chosen(n))
    return summarise(answered, About(curves={42: curves}, **about([42])), Options(n_resamples=2000))


def study_of_seeds(n: int, seeds: tuple[int, ...]) -> Results:
    answered = StudyOutputs(
        {s: [outputs(m, n, run=s) for m in NAMES[1:]] for s in seeds},
        [outputs("base", n)],
        outputs("Qwen2.5-0.5B-Instruct", n),
        *chosen(n),
    )
    curves = {s: {stage: stage_curves(10 * s + i, stage) for i, stage in enumerate(STAGES)} for s in seeds}
    return summarise(answered, About(curves=curves, **about(list(seeds))), Options(n_resamples=2000))


@pytest.fixture(scope="session")
def results() -> Results:
    return study(n=120)


@pytest.fixture(scope="session")
def seeds_results() -> Results:
    return study_of_seeds(80, (0, 1, 2))


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE
