"""Preference data under a condition, in the sandbox (docs/experiment_log.md): does it help, and what does it cost?

    python benchmarks/sandbox_conditions.py OUT scores      DPO against DPO on reward-augmented data
    python benchmarks/sandbox_conditions.py OUT lengths     DPO against Rc-DPO
    python benchmarks/sandbox_conditions.py OUT rewards     Bradley-Terry against response-conditioned reward models

SFT model, opponent and test prompts are those of sandbox_sweeps.py, in the same folder. The runs of a table take
the same number of steps on the same rows and keep the last weights. Intervals are 95 %, over prompts.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sandbox_sweeps import LAST, SFT_RATE, TEST_SEED, Sweep, table

from trimtab.data.chat import load_tokenizer
from trimtab.data.conditions import LengthInstruction, ScoreCondition
from trimtab.data.records import read_records
from trimtab.data.splits import DataSettings
from trimtab.evaluation.statistics import paired_difference
from trimtab.methods.reward_settings import ResponseConditioning
from trimtab.rewards.classifier import ClassifierReward
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data, test_prompts
from trimtab.sandbox.judge import judge_task
from trimtab.sandbox.manners import MANNERS, write
from trimtab.sandbox.prompts import parse_prompt

Floats = NDArray[np.float64]
ROWS, STEPS = 1000, 125
"""16 rows a step: two epochs of the pairs, or one of twice as many."""
PREFERENCE: dict[str, Any] = {"learning_rate": 1e-4, "beta": 0.05, **LAST}
SHORT = 40
"""Steps of 16 rows, once each, where a row is the pair and two comparisons of prompts."""
CONDITION: dict[str, Any] = {"text": "Overall score: {score}.", "low": -10.0, "high": 10.2, "digits": 0}
"""Gold scores, which run from −10 to 10.2, as whole numbers."""
ASKED = (0, -8)
"""Scores that the conditioned model is asked for besides the best."""
LENGTHS = {"at_most": "{prompt} Use {words} words or less.", "at_least": "{prompt} Use {words} words or more."}
"""Behind the prompt, which then is computed once for all that a row compares."""
PROMPTS, EACH, PAIRS = 200, 6, 150


def scored(sweep: Sweep, by_score: bool = False, rows: int = ROWS) -> DataSettings:
    """The sweep's pairs with the annotator's gold scores. by_score: the higher one is chosen, whatever was."""
    where = {}
    sizes: dict[Any, int] = {"train": 3000, "validation": 300}
    for split, count in sizes.items():
        path = sweep.out / "data" / f"{split}-{'by-score' if by_score else 'scored'}.jsonl"
        if not path.is_file():
            write_preferences(preference_data(split, count, 0, with_gold=True), path)
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            kept = [
                _turned(row) if by_score and row["score_chosen"] < row["score_rejected"] else row for row in lines
            ]
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
        where[split] = str(path)
    test = str(sweep.out / "data" / "test.jsonl")
    return DataSettings(**where, test=test, train_rows=rows, max_length=384)


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    swapped = {"chosen": "rejected", "score_chosen": "score_rejected"}
    swapped |= {there: here for here, there in swapped.items()}
    return {swapped.get(name, name): value for name, value in row.items()}


def compared(sweep: Sweep, runs: Mapping[str, tuple[Path | str, str | None]], baseline: str) -> None:
    """A row for each run, (model, tokenizer), and its differences to the baseline's over the same prompts."""
    outputs = {name: sweep.outputs(name, run[0], tokenizer=run[1]) for name, run in runs.items()}
    rows = []
    for name, run in runs.items():
        row = {"": name} | sweep.row(name, run[0], tokenizer=run[1])
        for what, read in (
            ("gold", lambda one: [score.score for score in one.scores]),
            ("tokens", lambda one: [generation.tokens for generation in one.generations]),
        ):
            found = paired_difference(read(outputs[name]), read(outputs[baseline]))
            low, high = found.interval.pair()
            row[f"{what} − {baseline}"] = (
                f"{found.difference:+.2f} [{low:.2f}, {high:.2f}]" if name != baseline else ""
            )
        rows.append(row)
    table(rows)


def scores(sweep: Sweep) -> None:
    """DPO on the annotator's labels, on labels by score, and on each pair under both its scores."""
    sft = sweep.sft()
    runs: dict[str, tuple[Path | str, str | None]] = {"SFT": (sft, None)}
    plain, by_score = scored(sweep), scored(sweep, by_score=True)
    made = ScoreCondition(**CONDITION)
    for name, rows, given in (
        ("DPO", plain, {}),
        ("DPO by score", by_score, {}),
        ("reward-augmented", plain, {"condition": made}),
    ):
        folder = sweep.stage("dpo", name.replace(" ", "-"), sft, rows, max_steps=STEPS, **PREFERENCE | given)
        runs[name] = (folder / "best", None)
        print(f"{name}: {packed(folder)} packed tokens")
    for asked in (10.2, *ASKED):
        tokenizer = sweep.out / "tokenizers" / f"asked-{asked}"
        changed = ScoreCondition(**CONDITION | {"high": float(asked)})
        changed.tokenizer(load_tokenizer(sft)).save_pretrained(tokenizer)
        if asked in ASKED:
            runs[f"asked for {asked}"] = (runs["reward-augmented"][0], str(tokenizer))
        else:  # what the condition does to a model that was not trained under it
            runs["SFT, asked for 10"] = (sft, str(tokenizer))
    compared(sweep, runs, "DPO")


def lengths(sweep: Sweep) -> None:
    """DPO and Rc-DPO on the same rows."""
    sft = sweep.sft()
    runs: dict[str, tuple[Path | str, str | None]] = {"SFT": (sft, None)}
    asked = {"loss": "rc_dpo", "length_instruction": LengthInstruction(**LENGTHS)}
    for name, given in (("DPO", {}), ("Rc-DPO", asked)):
        steps = {"max_steps": SHORT, "evaluation_interval": SHORT}
        folder = sweep.stage(
            "dpo", f"{name}-{SHORT}", sft, scored(sweep, rows=16 * SHORT), **PREFERENCE | steps | given
        )
        runs[f"{name}, {SHORT} steps"] = (folder / "best", None)
        print(f"{name}: {packed(folder)} packed tokens")
    compared(sweep, runs, f"DPO, {SHORT} steps")


def rewards(sweep: Sweep) -> None:
    """What two reward models make of truth and of length: six completions, in any manner, of each test prompt."""
    data, rows = scored(sweep, rows=16 * SHORT), []
    stages = {"Bradley-Terry": None, "response-conditioned": ResponseConditioning(**LENGTHS)}
    rng = random.Random(TEST_SEED)
    prompts, texts, gold_PK = [], [], np.zeros((PROMPTS, EACH))
    for p, prompt in enumerate(test_prompts(PROMPTS, TEST_SEED)):
        task = parse_prompt(prompt)
        assert task is not None
        for k in range(EACH):
            prompts.append(prompt)
            texts.append(write(task, rng.choice(MANNERS), rng))
            gold_PK[p, k] = judge_task(task, prompt, texts[-1]).score
    words_PK = np.array([len(text.split()) for text in texts], dtype=np.float64).reshape(PROMPTS, EACH)
    for name, conditioned in stages.items():
        folder = sweep.stage(
            "reward",
            name,
            sweep.sft(),
            data,
            learning_rate=SFT_RATE,
            response_conditioned=conditioned,
            evaluation_interval=SHORT,
            **LAST,
        )
        model = ClassifierReward(str(folder / "best"))
        reward_PK = np.array(model.score(prompts, texts), dtype=np.float64).reshape(PROMPTS, EACH)
        rows.append(
            {
                "": name,
                "right": resampled(right, reward_PK, gold_PK, words_PK),
                "right, longer is better": resampled(right, reward_PK, gold_PK, words_PK, side=1),
                "right, shorter is better": resampled(right, reward_PK, gold_PK, words_PK, side=-1),
                "r(reward, words)": resampled(correlation, reward_PK, gold_PK, words_PK),
                "r(reward, words · gold)": resampled(correlation, reward_PK, gold_PK, words_PK, partial=True),
                "length instructions": instructed(sweep, model),
                "packed tokens": packed(folder),
            }
        )
    table(rows)
    print("r(gold, words):", resampled(correlation, gold_PK, gold_PK, words_PK))


def packed(folder: Path) -> str:
    """Tokens that a run trained on: what it cost, whatever else the machine did."""
    return f"{json.loads((folder / 'done.json').read_text(encoding='utf-8'))['tokens']:,}"


def right(reward_PK: Floats, gold_PK: Floats, words_PK: Floats, side: int = 0) -> float:
    """Share of a prompt's pairs, with different gold scores, that the reward ranks as gold does; ties half.
    side: 1, of those whose better completion is the longer; -1, the shorter."""
    i, j = np.triu_indices(EACH, 1)
    reward, gold, words = (x_PK[:, i] - x_PK[:, j] for x_PK in (reward_PK, gold_PK, words_PK))
    wanted = (gold != 0) & ((np.sign(gold * words) == side) | (side == 0))
    agree = (np.sign(reward * gold) + 1) / 2
    return float(agree[wanted].mean())


def correlation(reward_PK: Floats, gold_PK: Floats, words_PK: Floats, partial: bool = False) -> float:
    """Of reward and words within prompts; partial: of what gold does not explain of either."""
    reward, gold, words = ((x_PK - x_PK.mean(1, keepdims=True)).ravel() for x_PK in (reward_PK, gold_PK, words_PK))
    if partial:
        reward, words = (x - gold * (x @ gold) / (gold @ gold) for x in (reward, words))
    return float(reward @ words / np.sqrt((reward @ reward) * (words @ words)))


def resampled(measure: Any, *arrays_PK: Floats, draws: int = 2000, **given: Any) -> str:
    """A measure with its bootstrap interval over prompts."""
    rng = np.random.default_rng(0)
    found = [
        measure(*(x_PK[which] for x_PK in arrays_PK), **given)
        for which in rng.integers(0, PROMPTS, (draws, PROMPTS))
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return f"{measure(*arrays_PK, **given):.3f} [{low:.3f}, {high:.3f}]"


def instructed(sweep: Sweep, model: ClassifierReward) -> str:
    """Share of validation completions that score higher where the prompt suits their length; standard error."""
    prompts: list[Any] = []
    texts: list[str] = []
    for record in read_records(str(sweep.out / "data" / "validation.jsonl"))[:PAIRS]:
        [row] = LengthInstruction(seed=TEST_SEED, **LENGTHS).pairs(record)  # type: ignore[misc]
        prompts += row.prompts or ()
        texts += row.completions
    found = np.array(model.score(prompts, texts), dtype=np.float64).reshape(-1, 4)
    ahead = np.concatenate([found[:, 0] > found[:, 1], found[:, 2] > found[:, 3]])
    return f"{ahead.mean():.3f} ± {ahead.std() / np.sqrt(len(ahead)):.3f}"


if __name__ == "__main__":
    {"scores": scores, "lengths": lengths, "rewards": rewards}[sys.argv[2]](Sweep(Path(sys.argv[1])))
