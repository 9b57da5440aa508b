"""TRL's trainers over the very steps that real_runs.py has trimtab take, and what makes the two comparable.

- Rows: TRL gets the rows of every step laid end to end in our order, and goes through them one after the other.
- Tokens: TRL gets prompts rendered by the template and completions that end with its end-of-turn token, as plain
  text. Of a conversation it would also train on what the template writes behind that token (ChatML's newline),
  which we leave to the next turn. Every token that TRL makes is compared with ours.
- Lengths: nobody cuts anything, since no row is longer than the limit.
- Dropout is off on both sides, as TRL's DPO has it; its other trainers leave it to the model, which has none.
- Schedule: our warmup starts at 1/(warmup + 1) of the peak, transformers' at 0. Its own schedule of one step more
  in warmup and in all, entered at its second step, is ours.
- Accuracy of rewards is not compared: a tie is half for us, and wrong for TRL.
- Completions: RLOOTrainer's generation is replaced by one that returns what is given.
Optimizer, weight decay (which of the weights decay, too), clipping, losses and rewards are each side's own.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    get_linear_schedule_with_warmup,
)

from training.real_runs import CLIP, SAMPLES, UPDATES, Curve, Given, Plan, Weights, World, weights_of
from trimtab.data.chat import ChatFormat
from trimtab.data.groups import CompletionGroup
from trimtab.data.records import Record, read_records
from trimtab.training.schedule import groups_of_step

trl = pytest.importorskip("trl")
SEED = 42
METRICS = {
    "dpo": ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"),
    "sft": (),
    "rloo": ("kl", "entropy", "reward", "clip_ratio/low_mean", "clip_ratio/high_mean"),
}
"""What is compared beside loss, grad_norm and learning_rate."""
RTOL, ATOL = 1e-3, 1e-4
NEAR_ZERO = 0.01
"""Below it a relative difference says nothing: rewards start at 0."""


class Clock(TrainerCallback):
    """The processor's seconds of each optimizer step, gradient, clipping and update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self.begun)


@contextlib.contextmanager
def as_torch_comes() -> Iterator[None]:
    """Without the deterministic algorithms that an earlier stage of ours may have asked for."""
    asked = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked)


def arguments(plan: Plan, out: Path, **chosen: Any) -> dict[str, Any]:
    rows = plan.groups * chosen.pop("rows_of_group", 1)
    return {
        "output_dir": str(out), "max_steps": plan.stop, "learning_rate": plan.learning_rate,
        "per_device_train_batch_size": rows // plan.micro_batches,
        "gradient_accumulation_steps": plan.micro_batches,
        "weight_decay": plan.weight_decay, "max_grad_norm": plan.max_grad_norm, "optim": "adamw_torch_fused",
        "train_sampling_strategy": "sequential", "logging_steps": 1, "bf16": False, "use_cpu": True,
        "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "seed": SEED,
    } | chosen  # fmt: skip


def train(trainer: Any, plan: Plan) -> Curve:
    optimizer = trainer.create_optimizer()
    for group in optimizer.param_groups:
        group["initial_lr"] = plan.learning_rate
    trainer.lr_scheduler = get_linear_schedule_with_warmup(optimizer, plan.warmup + 1, plan.steps + 1, last_epoch=0)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "grad_norm" in row]
    return Curve(rows, weights_of(trainer.model), clock.seconds)


def tokenizer_of(world: World) -> Any:
    """With the end of turn as eos, as trimtab leaves it when it saves a model."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(world.model)  # as its file has it, whatever the config says
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ChatFormat(tokenizer).end_of_turn)
    return tokenizer


def rendered(tokenizer: Any, record: Record) -> str:
    assert isinstance(record.prompt, str)
    if not tokenizer.chat_template:
        return record.prompt
    turns = [{"role": "user", "content": record.prompt}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def in_order(groups: list[CompletionGroup], plan: Plan, batches: int) -> list[CompletionGroup]:
    """The groups of so many batches, as trimtab takes them."""
    return [group for batch in range(batches) for group in groups_of_step(groups, batch, plan.groups, SEED)]


def dpo(plan: Plan, world: World, out: Path) -> Curve:
    from datasets import Dataset

    tokenizer, records = tokenizer_of(world), read_records(str(world.pairs))
    groups = in_order(world.groups("pair"), plan, plan.stop)
    rows = [
        {
            "prompt": rendered(tokenizer, records[group.index]),
            "chosen": records[group.index].completions[0],
            "rejected": records[group.index].completions[-1],
        }
        for group in groups
    ]
    with as_torch_comes():
        trainer = trl.DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32),
            args=trl.DPOConfig(**arguments(plan, out, beta=plan.beta, max_length=world.limit)),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
        )
        for group, row in zip(groups, trainer.train_dataset, strict=True):
            made = [row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]]
            assert made == [list(group.prompt), *map(list, group.completions)], "the same tokens"
        return train(trainer, plan)


def sft(plan: Plan, world: World, out: Path) -> Curve:
    from datasets import Dataset

    tokenizer, records = tokenizer_of(world), read_records(str(world.pairs))
    groups = in_order(world.groups("first"), plan, plan.stop)
    rows = [
        {"prompt": rendered(tokenizer, records[g.index]), "completion": records[g.index].completions[0]}
        for g in groups
    ]
    with as_torch_comes():
        trainer = trl.SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32),
            args=trl.SFTConfig(**arguments(plan, out, max_length=world.limit, completion_only_loss=True)),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
        )
        for group, row in zip(groups, trainer.train_dataset, strict=True):
            assert row["input_ids"] == [*group.prompt, *group.completions[0]], "the same tokens"
            assert row["labels"] == [-100] * len(group.prompt) + list(group.completions[0]), "and the same mask"
        return train(trainer, plan)


def rloo(plan: Plan, world: World, out: Path, given: Given) -> Curve:
    from datasets import Dataset

    groups = in_order(given.groups, plan, plan.stop // UPDATES)
    drawing = {
        "num_generations": SAMPLES, "num_iterations": UPDATES, "max_completion_length": world.limit,
        "beta": plan.beta, "epsilon": CLIP, "shuffle_dataset": False,
    }  # fmt: skip
    with as_torch_comes():
        trainer = trl.RLOOTrainer(
            model=str(world.model),
            reward_funcs=given.function,
            args=trl.RLOOConfig(**arguments(plan, out, rows_of_group=SAMPLES, **drawing)),
            processing_class=tokenizer_of(world),
            train_dataset=Dataset.from_list([{"prompt": str(place)} for place in range(len(groups))]),
        )

        def generate(prompts: list[str]) -> tuple[list[list[int]], list[list[int]], list[str]]:
            drawn = [groups[int(prompt)] for prompt in prompts]
            completions = [list(group.completions[i % SAMPLES]) for i, group in enumerate(drawn)]
            return [list(group.prompt) for group in drawn], completions, [""] * len(prompts)

        trainer._generate = generate
        return train(trainer, plan)


# ---- the comparison


def names_of(kind: str) -> tuple[str, ...]:
    return ("loss", "grad_norm", "learning_rate", *METRICS[kind])


def in_trls_units(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """Our KL is of a sequence, RLOOTrainer's of a token."""
    return row | {"kl": row["kl"] / row["completions/mean_length"]} if kind == "rloo" and "kl" in row else row


def pairs_of(kind: str, mine: Curve, other: Curve) -> Iterator[tuple[int, str, float, float]]:
    """step, metric, our value, TRL's. KL and reward are logged where completions are drawn, on both sides."""
    for step, (row, theirs) in enumerate(zip(mine.rows, other.rows, strict=True), start=1):
        ours = in_trls_units(kind, row)
        for name in names_of(kind):
            assert (name in ours) == (name in theirs), (step, name)
            if name in ours:
                yield step, name, ours[name], theirs[name]


def same(kind: str, plan: Plan, mine: Curve, other: Curve) -> None:
    """AssertionError at the first step whose numbers differ."""
    assert len(mine.rows) == len(other.rows) == plan.stop
    for step, name, ours, theirs in pairs_of(kind, mine, other):
        assert ours == pytest.approx(theirs, rel=RTOL, abs=ATOL), (step, name)


def same_weights(start: Weights, mine: Curve, other: Curve) -> None:
    for name, weight in other.weights.items():
        moved = (weight - start[name]).norm()
        # Adam turns rounding noise of zero gradients into full steps: the key biases' gradient is 0.
        if not name.endswith("k_proj.bias"):
            assert (mine.weights[name] - weight).norm() <= 1e-2 * moved, name


def same_all(kind: str, plan: Plan, start: Weights, mine: Curve, other: Curve) -> None:
    same(kind, plan, mine, other)
    same_weights(start, mine, other)


def table(kind: str, mine: Curve, other: Curve) -> str:
    """Of each metric its range in TRL's run and the largest difference, relative where the value is not near 0."""
    lines = []
    for wanted in names_of(kind):
        found = [(ours, theirs) for _, name, ours, theirs in pairs_of(kind, mine, other) if name == wanted]
        values = [theirs for _, theirs in found]
        absolute = max(abs(ours - theirs) for ours, theirs in found)
        relative = max((abs(a - b) / abs(b) for a, b in found if abs(b) >= NEAR_ZERO), default=float("nan"))
        lines.append(
            f"| {kind} | {wanted} | {min(values):.4g} to {max(values):.4g} | {absolute:.1e} | {relative:.1e} |"
        )
    return "\n".join(lines)


def speed(mine: Curve, other: Curve) -> str:
    """Medians over the steps after the first, in seconds of the processor."""
    ours, theirs = (statistics.median(curve.seconds[1:]) for curve in (mine, other))
    means = statistics.mean(other.seconds[1:]) / statistics.mean(mine.seconds[1:])
    medians = f"CPU s a step: TRL {theirs:.3f}, trimtab {ours:.3f}"
    return f"{medians}; ratio of medians {theirs / ours:.2f}, of means {means:.2f}"
