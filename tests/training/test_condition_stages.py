"""Preference data under a condition in whole stages, against transformers alone: losses, saving, resuming."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.conditions import LengthInstruction, ScoreCondition
from trimtab.data.hashing import hash_source
from trimtab.data.records import Record, read_records
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.reward import RewardModelTraining
from trimtab.methods.reward_settings import ResponseConditioning, RewardModelSettings
from trimtab.plan.work import stage_work
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data
from trimtab.study.stages import Stage
from trimtab.training.loop import Loop
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage

STAGE: dict[str, Any] = {
    "batch_size": 4, "max_steps": 4, "learning_rate": 1e-3, "warmup_steps": 0, "precision": "float32",
    "evaluation_interval": 2, "logging_interval": 1, "token_budget": 400,
    "best_metric": "step", "best_is": "highest",
}  # fmt: skip
HELD_OUT = 5
CONDITION = ScoreCondition(text="Score {score}.", low=-10, high=10.2)
LENGTHS = LengthInstruction(at_most="{prompt} At most {words}.", at_least="{prompt} At least {words}.")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scored") / "pairs.jsonl"
    write_preferences(preference_data("train", 20, 3, with_gold=True), path)
    return path


def train(model: Path, rows: Path, out: Path, **given: Any) -> list[dict[str, Any]]:
    """The evaluations."""
    data = DataSettings(train=str(rows), max_length=400, validation_rows=HELD_OUT)
    run_stage("dpo", DPO, DPOSettings(**STAGE | given), data, str(model), out)
    return [row for row in read_metrics(out / "metrics.jsonl") if "eval_loss" in row]


def held_out(rows: Path) -> list[Record]:
    return read_records(str(rows))[:HELD_OUT]


def said(prompt: Any) -> list[dict[str, str]]:
    turns = [("user", prompt)] if isinstance(prompt, str) else [(turn.role, turn.content) for turn in prompt]
    return [{"role": role, "content": content} for role, content in turns]


class Judged:
    """β log π/π_ref of a completion, by transformers alone: the saved folder, its own template, row by row."""

    def __init__(self, trained: Path, start: Path, beta: float) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(trained)
        models = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).eval() for f in (trained, start))
        self.policy, self.reference = models
        self.beta = beta

    def reward(self, prompt: Any, completion: str, **values: Any) -> float:
        before = self.tokenizer.apply_chat_template(
            said(prompt), tokenize=False, add_generation_prompt=True, **values
        )
        first = len(self.tokenizer(before, add_special_tokens=False)["input_ids"])
        ids = torch.tensor(
            [self.tokenizer(f"{before}{completion}<|im_end|>", add_special_tokens=False)["input_ids"]]
        )
        with torch.no_grad():
            logps = [model(input_ids=ids).logits[0].log_softmax(-1) for model in (self.policy, self.reference)]
        ours, theirs = (float(one[first - 1 : -1].gather(-1, ids[0, first:, None]).sum()) for one in logps)
        return self.beta * (ours - theirs)


def loss(ahead: float) -> float:
    return math.log1p(math.exp(-ahead))


def test_dpo_under_scores(toy_model: Path, scored: Path, tmp_path: Path) -> None:
    """Each held-out pair asked for both scores, nearest first: its mean loss is what was logged. The folder that is
    saved asks for the best."""
    evaluated = train(toy_model, scored, tmp_path / "out", condition=CONDITION, beta=0.5)
    assert evaluated[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    judged = Judged(tmp_path / "out" / "best", toy_model, 0.5)
    losses = []
    for record in held_out(scored):
        assert record.scores is not None
        first, last = (CONDITION.rounded_score(score) for score in record.scores)
        if first == last:
            continue
        for asked, order in ((first, (0, 1)), (last, (1, 0))):
            near, far = (judged.reward(record.prompt, record.completions[i], target_score=asked) for i in order)
            losses.append(loss(near - far))
    assert len(losses) >= 8
    assert evaluated[-1]["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert abs(evaluated[-1]["eval_loss"] - math.log(2)) > 1e-3

    best = tmp_path / "out" / "best"
    form = ChatFormat(load_tokenizer(str(best)))
    assert form.tokenizer.decode(form.prompt_ids("Hi")).startswith("<|im_start|>system\nScore 10.2.<|im_end|>")
    card = (best / "README.md").read_text()
    assert "“Score 10.2.” `apply_chat_template(messages, target_score=…)`" in card
    assert "on the scale from -10 to 10.2" in card
    assert "direct preference optimization, on reward-augmented pairs" in card


def test_twice_the_pairs_are_twice_the_steps(toy_model: Path, scored: Path, tmp_path: Path) -> None:
    """An epoch goes over both pairs of each row; a plan counts them too, and rows stay rows in data.json."""
    settings = DPOSettings(**STAGE | {"max_steps": None, "condition": CONDITION})
    train(toy_model, scored, tmp_path / "out", max_steps=None, condition=CONDITION)
    counts = json.loads((tmp_path / "out" / "data.json").read_text())["train"]
    assert counts["used"] + sum(counts["dropped"].values()) == counts["rows"] == 20 - HELD_OUT
    done = json.loads((tmp_path / "out" / "done.json").read_text())
    assert done["step"] == math.ceil(2 * counts["used"] / 4)
    data = DataSettings(train=str(scored), max_length=400, validation_rows=HELD_OUT)
    form = ChatFormat(load_tokenizer(str(toy_model)), data)
    work = stage_work(Stage("dpo", "dpo", settings, "sft", ""), False, split_records(data), form)
    assert (work.groups, work.steps) == (2 * counts["used"], done["step"])
    assert work.step_tokens * work.steps == pytest.approx(done["tokens"], rel=0.2)


def test_rows_without_scores_leave_nothing(toy_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match=r"nothing is left of the 55 training rows \(55 × no scores\)"):
        train(toy_model, toy_pairs, tmp_path / "out", condition=CONDITION)


def test_rc_dpo(toy_model: Path, scored: Path, tmp_path: Path) -> None:
    """The pair, y_w under x against x¹, y_l under x² against x: the weighted mean of three losses, λ = 2."""
    given = {"loss": "rc_dpo", "length_instruction": LENGTHS, "beta": 0.5, "loss_options": {"balance": 2.0}}
    evaluated = train(toy_model, scored, tmp_path / "out", **given)
    assert evaluated[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    judged = Judged(tmp_path / "out" / "best", toy_model, 0.5)
    losses, right, lengths = [], [], []
    for record in held_out(scored):
        [row] = LENGTHS.pairs(record)  # type: ignore[misc]
        assert row.prompts is not None
        rewards = [judged.reward(p, c) for p, c in zip(row.prompts, row.completions, strict=True)]
        chosen, failing, keeping, rejected = rewards
        terms = loss(chosen - rejected) + loss(chosen - failing) + 2 * loss(keeping - rejected)
        losses.append(terms / 4)
        right.append(chosen > rejected)
        lengths += [chosen > failing, keeping > rejected]
    last = evaluated[-1]
    assert last["eval_loss"] == pytest.approx(sum(losses) / HELD_OUT, rel=1e-4)
    assert last["eval_rewards/accuracies"] == pytest.approx(sum(right) / HELD_OUT)
    assert last["eval_rewards/length_accuracies"] == pytest.approx(sum(lengths) / (2 * HELD_OUT))


def test_interrupted_and_started_again_it_ends_the_same(
    toy_model: Path, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third step, after the checkpoint of the second; other bounds are another run."""
    given = {"loss": "rc_dpo", "length_instruction": LENGTHS, "checkpoint_interval": 2}
    train(toy_model, scored, tmp_path / "whole", **given)
    original = Loop.train_step

    def until_two(self: Loop, step: int) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(Loop, "train_step", until_two)
    with pytest.raises(KeyboardInterrupt):
        train(toy_model, scored, tmp_path / "out", **given)
    monkeypatch.undo()
    with pytest.raises(TrimtabError, match=r"settings\.length_instruction differ"):
        train(toy_model, scored, tmp_path / "out", **given | {"length_instruction": LengthInstruction(seed=1)})
    train(toy_model, scored, tmp_path / "out", **given)
    weights = [hash_source(str(tmp_path / name / "best" / "model.safetensors")) for name in ("whole", "out")]
    assert weights[0] == weights[1]


def test_a_response_conditioned_reward_model(toy_model: Path, scored: Path, tmp_path: Path) -> None:
    """The saved classifier, in transformers alone, on whole conversations: the logged loss and both accuracies."""
    given = ResponseConditioning(at_most=LENGTHS.at_most, at_least=LENGTHS.at_least, balance=0.5)
    settings = RewardModelSettings(**STAGE | {"learning_rate": 3e-3, "max_steps": 8}, response_conditioned=given)
    data = DataSettings(train=str(scored), max_length=400, validation_rows=HELD_OUT)
    run_stage("reward", RewardModelTraining, settings, data, str(toy_model), tmp_path / "out")
    last = read_metrics(tmp_path / "out" / "metrics.jsonl")[-1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "best")
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out" / "best", dtype=torch.float32
    ).eval()
    losses, right, lengths = [], [], []
    for record in held_out(scored):
        [row] = given.pairs(record)  # type: ignore[misc]
        scores = []
        for prompt, completion in zip(row.prompts or (), row.completions, strict=True):
            turns = [*said(prompt), {"role": "assistant", "content": completion}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            with torch.no_grad():
                ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
                scores.append(float(model(input_ids=ids).logits[0, 0]))
        chosen, failing, keeping, rejected = scores
        terms = loss(chosen - rejected) + loss(chosen - failing) + 0.5 * loss(keeping - rejected)
        losses.append(terms / 2.5)
        right.append(chosen > rejected)
        lengths += [chosen > failing, keeping > rejected]
    assert last["eval_loss"] == pytest.approx(sum(losses) / HELD_OUT, rel=1e-4)
    assert last["eval_accuracy"] == pytest.approx(sum(right) / HELD_OUT)
    assert last["eval_length_accuracy"] == pytest.approx(sum(lengths) / (2 * HELD_OUT))


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ValidationError, match="only the loss rc_dpo asks for lengths"):
        DPOSettings(length_instruction=LENGTHS)
    for name in ("rc_dpo", "ranking", "kto"):
        with pytest.raises(ValidationError, match="condition: needs a loss of plain pairs"):
            DPOSettings(loss=name, condition=CONDITION)
    assert DPOSettings(loss={"ipo": 1.0, "sft": 0.1}, condition=CONDITION).condition == CONDITION
