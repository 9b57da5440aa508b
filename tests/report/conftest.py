"""Synthetic outputs of a study: no model made them."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.data.audit import audit
from trimtab.data.records import Record
from trimtab.evaluation.outputs import Generation, MethodOutputs, Score
from trimtab.evaluation.results import Provenance, Results, SplitCounts, StageCurves
from trimtab.evaluation.summary import summarise

HOSTILE = (
    "</script><img src=x onerror=alert(1)> \"quoted\" 'single' & $x^2$ \\textbf{a} | # _b_ %\n=SUM(A1) <!-- -->"
)
WORDS = ["the", "city", "has", "a", "lower", "cost", "of", "living", "and", "jobs", "food", "transit", "sun"]
QUALITY = {"base": -0.9, "sft": -0.6, "sft_length": -0.2, "dpo": 0.35, "grpo": 0.5, "Qwen2.5-0.5B-Instruct": 0.0}
SIZE = {"base": 190, "sft": 230, "sft_length": 120, "dpo": 150, "grpo": 165, "Qwen2.5-0.5B-Instruct": 140}


def outputs(name: str, n: int, seed: int = 0) -> MethodOutputs:
    rng = np.random.default_rng([seed, *name.encode()])
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
        scores.append(Score(id=f"p{i}", score=score, reason=None if score is not None else "timeout"))
    return MethodOutputs(name, generations, scores, 19.8 - 2 * QUALITY[name], 0.95 - 0.05 * QUALITY[name])


def stage_curves(seed: int, dpo: bool) -> StageCurves:
    rng = np.random.default_rng(seed)
    train, held_out = [], []
    for step in range(10, 1010, 10):
        row: dict[str, float | int | str | None] = {
            "step": step,
            "loss": 0.4 + 0.5 * np.exp(-step / 300) + 0.04 * rng.normal(),
            "grad_norm": 1.0 + 0.2 * rng.normal(),
        }
        if dpo:
            row |= {"rewards/accuracies": 0.5 + 0.2 * (1 - np.exp(-step / 300)) + 0.03 * rng.normal()}
            row |= {"rewards/margins": step / 900 + 0.1 * rng.normal()}
        train.append(row)
        if step % 100 == 0:
            ev: dict[str, float | int | str | None] = {"step": step, "eval_loss": 0.45 + 0.5 * np.exp(-step / 350)}
            if dpo:
                ev["eval_rewards/accuracies"] = 0.5 + 0.15 * (1 - np.exp(-step / 300))
            held_out.append(ev)
    return StageCurves(train=train, validation=held_out)


def study(n: int = 200, names: tuple[str, ...] = ("base", "sft", "sft_length", "dpo", "grpo")) -> Results:
    records = [
        Record(
            f"question {i}",
            (f"answer {i} is yes" + ("\nConfidence: 90%" if i % 5 == 0 else ""), f"answer {i} is no"),
            (7.0, 5.0),
        )
        for i in range(200)
    ]
    rng = np.random.default_rng(5)
    return summarise(
        [outputs(m, n) for m in names],
        outputs("Qwen2.5-0.5B-Instruct", n),
        [" ".join(rng.choice(WORDS, size=100)) for _ in range(n)],
        [int(x) for x in rng.gamma(3, 60, size=n)],
        name="Qwen2.5-0.5B on UltraFeedback (synthetic)",
        judge="nemotron-70b-reward",
        training_reward="nemotron-70b-reward",
        audit=audit(records),
        curves={m: stage_curves(i, m in ("dpo", "grpo")) for i, m in enumerate(names) if m != "base"},
        data={
            "train": SplitCounts(
                read=1000, kept=994, dropped={"identical": 4, "empty": 2}, truncated={"prompt": 75}
            ),
            "validation": SplitCounts(read=200, kept=200),
        },
        provenance=Provenance(
            versions={"trimtab": "0.1.0", "torch": "2.9.0", "transformers": "5.23.0"},
            device="one GPU, bf16",
            seeds=[42],
            hashes={"recipe": "0f3a" * 16, "data": "9be1" * 16},
            wall_seconds={"sft": 1234.5, "sft_length": 1500.0, "dpo": 4000.0, "grpo": 9876.0},
            peak_memory_bytes={"sft": 7 * 2**30, "dpo": 9 * 2**30, "grpo": None},
            decoding="transformers 5.23.0 | beam | width 4 | length penalty 0.9 | cap 350",
        ),
        n_resamples=2000,
    )


@pytest.fixture(scope="session")
def results() -> Results:
    return study(n=120)


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE
