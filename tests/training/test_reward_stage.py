"""Training a reward model as a stage: it learns, says how sure its accuracy is, is saved as transformers reads it
and resumes exactly."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.statistics import wilson_interval
from trimtab.methods.reward import RewardModelTraining
from trimtab.methods.reward_settings import RewardModelSettings
from trimtab.training.loop import Loop
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

WORDS = ["knife", "lamp", "Paris", "Tokyo", "axe", "router", "rice", "apple"]
VALIDATION = 20


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The better answer says yes, at any place in it; half of the rows have scores 3 apart, half 1 apart."""
    rng, path = random.Random(0), tmp_path_factory.mktemp("reward") / "pairs.jsonl"

    def answer(word: str) -> str:
        words = [rng.choice(WORDS) for _ in range(rng.randint(2, 5))]
        return " ".join([*words[:2], word, *words[2:]])

    with path.open("w") as out:
        for i in range(80):
            row = {"prompt": f"A {rng.choice(WORDS)}?", "chosen": answer("yes"), "rejected": answer("no")}
            out.write(json.dumps(row | {"score_chosen": 4.0, "score_rejected": 1.0 if i % 2 else 3.0}) + "\n")
    return path


def train(model: Path, pairs: Path, folder: Path, **given: Any) -> Path:
    chosen: dict[str, Any] = {
        "learning_rate": 3e-3, "warmup_steps": 0, "batch_size": 8, "max_steps": 16, "evaluation_interval": 8,
        "logging_interval": 1, "precision": "float32", "token_budget": 300,
    }  # fmt: skip
    rows = DataSettings(train=str(pairs), max_length=100, validation_rows=VALIDATION)
    return run_stage("reward", RewardModelTraining, RewardModelSettings(**chosen | given), rows, str(model), folder)


def logged(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder / "metrics.jsonl")]
    return [row for row in rows if "loss" in row], [row for row in rows if "loss" not in row]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "best" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(toy_model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "out"
    train(toy_model, pairs, folder)
    return folder


def test_it_starts_near_ln_2_and_learns(trained: Path) -> None:
    """A new head's scores are near 0, so that every pair costs about −ln σ(0) = ln 2 = 0.693."""
    steps, evaluations = logged(trained)
    assert [row["step"] for row in evaluations] == [0, 8, 16]
    assert evaluations[0]["eval_loss"] == pytest.approx(math.log(2), abs=0.05)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=0.05)
    assert evaluations[0]["eval_accuracy"] < 0.9
    assert evaluations[-1]["eval_accuracy"] > 0.9
    assert evaluations[-1]["eval_loss"] < 0.3
    assert evaluations[-1]["eval_margin"] > 1
    assert steps[-1]["accuracy"] > 0.9


def test_the_accuracy_has_its_interval(trained: Path) -> None:
    """Wilson's, at the counts that the accuracy stands for; all 20 right is 0.839 to 1."""
    for row in logged(trained)[1]:
        right = row["eval_accuracy"] * VALIDATION
        assert right == pytest.approx(round(right))
        interval = wilson_interval(round(right), VALIDATION)
        assert (row["eval_accuracy/low"], row["eval_accuracy/high"]) == (interval.low, interval.high)
        assert row["eval_accuracy/low"] < row["eval_accuracy"] or right == 0
    assert wilson_interval(20, 20).low == pytest.approx(0.8389, abs=1e-4)


def test_the_saved_folder_ranks_the_same_in_transformers(trained: Path, pairs: Path) -> None:
    """Every validation pair rendered with the saved template and scored by the saved classifier: the accuracy, mean
    margin and mean loss are those that were logged when it was the best."""
    tokenizer = AutoTokenizer.from_pretrained(trained / "best")
    model = AutoModelForSequenceClassification.from_pretrained(trained / "best", dtype=torch.float32).eval()
    best_step = json.loads((trained / "done.json").read_text())["best_step"]
    row = next(one for one in logged(trained)[1] if one["step"] == best_step)
    scores = []
    for line in pairs.read_text().splitlines()[:VALIDATION]:
        record = json.loads(line)
        for side in ("chosen", "rejected"):
            turns = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record[side]}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            with torch.no_grad():
                inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
                scores.append(float(model(input_ids=inputs["input_ids"]).logits[0, 0]))
    margins = torch.tensor(scores).view(-1, 2) @ torch.tensor([1.0, -1.0])
    assert float((margins > 0).float().mean()) == pytest.approx(row["eval_accuracy"])
    assert float(margins.mean()) == pytest.approx(row["eval_margin"], abs=1e-4)
    assert sum(scores) / len(scores) == pytest.approx(row["eval_mean_reward"], abs=1e-4)
    assert float(torch.nn.functional.softplus(-margins).mean()) == pytest.approx(row["eval_loss"], abs=1e-4)


def test_a_margin_is_subtracted_and_the_centre_added(toy_model: Path, pairs: Path, tmp_path: Path) -> None:
    """All 60 training pairs in one step, scores near 0: 30 gaps of 1 and 30 of 3, times 0.5.

    ½ (softplus(0.5) + softplus(1.5)) = ½ (0.974 + 1.701) = 1.338. The centre's (r_w + r_l)² is of the scores alone.
    """
    train(toy_model, pairs, tmp_path / "margin", margin=0.5, batch_size=60, max_steps=1)
    train(toy_model, pairs, tmp_path / "plain", batch_size=60, max_steps=1)
    train(toy_model, pairs, tmp_path / "centre", batch_size=60, max_steps=1, center=10.0)
    margin, plain, centre = (logged(tmp_path / name)[0][0] for name in ("margin", "plain", "centre"))
    assert margin["loss"] == pytest.approx(1.338, abs=0.05)
    assert margin["margin"] == plain["margin"], "of the scores, without it"
    assert plain["mean_reward"] ** 2 * 4 * 10 <= centre["loss"] - plain["loss"] < 10


def test_a_margin_needs_scores(toy_model: Path, pairs: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    bare.write_text(
        "".join(json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")}) + "\n" for row in rows)
    )
    with pytest.raises(TrimtabError, match="'margin' needs rows with scores"):
        train(toy_model, bare, tmp_path / "out", margin=1.0)


def test_interrupted_and_started_again_it_ends_the_same(
    trained: Path, toy_model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the eleventh step, after the checkpoint of the tenth."""
    original = Loop.train_step

    def until_ten(self: Loop, step: int) -> Any:
        if step == 10:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(Loop, "train_step", until_ten)
    with pytest.raises(KeyboardInterrupt):
        train(toy_model, pairs, tmp_path / "out", checkpoint_interval=5)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "out" / "checkpoints").glob("step-*")] == ["step-00000010"]
    train(toy_model, pairs, tmp_path / "out", checkpoint_interval=5)
    assert digest(tmp_path / "out") == digest(trained)
    assert logged(tmp_path / "out") == logged(trained)
