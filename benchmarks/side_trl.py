"""TRL's side of a training benchmark: one of its trainers over rows that are given, a step at a time.

python side_trl.py JOB.json, with method, model, rows (a file of JSON lines in the order of the steps), steps,
warmup, groups (of a step), micro_batch, length, precompute, precision, samples, cap, out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import torch
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from turns import Gate

job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
gate = Gate(job["warmup"])


class Turns(TrainerCallback):
    """Waits before each step, and says after it what it took."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Called before a step's first micro-batch."""
        gate.before()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called after the optimizer's step, before the loss is logged."""
        losses = [float(loss) for loss in seen]
        seen.clear()
        gate.after(sum(losses) / max(1, len(losses)))


seen: list[torch.Tensor] = []


def watched(trainer: Any) -> Any:
    """The trainer, which notes each micro-batch's loss. Its sum over a step's micro-batches is the step's."""
    training_step = trainer.training_step

    def noted(*given: Any, **named: Any) -> torch.Tensor:
        loss: torch.Tensor = training_step(*given, **named)
        seen.append(loss.detach() * trainer.args.gradient_accumulation_steps)
        return loss

    trainer.training_step = noted
    trainer.add_callback(Turns())
    return trainer


def shortest(completions: list[Any], **_: Any) -> list[float]:
    """A reward that costs nothing."""
    return [-float(len(str(completion))) for completion in completions]


def main() -> None:
    """Trains."""
    method, model = job["method"], job["model"]
    of_group = job["samples"] if method == "grpo" else 1
    shared: dict[str, Any] = {
        "output_dir": job["out"], "max_steps": job["steps"], "learning_rate": 1e-6, "warmup_steps": 0,
        "per_device_train_batch_size": job["micro_batch"],
        "gradient_accumulation_steps": job["groups"] * of_group // job["micro_batch"],
        "max_grad_norm": 1.0, "optim": "adamw_torch_fused", "train_sampling_strategy": "sequential",
        "logging_steps": 10**6, "bf16": job["precision"] == "bf16",
        "use_cpu": not torch.cuda.is_available(), "gradient_checkpointing": False,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "seed": 42,
    }  # fmt: skip
    rows = Dataset.from_list([json.loads(line) for line in Path(job["rows"]).read_text().splitlines()])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.eos_token = job["end_of_turn"]
    if method == "reward":
        tokenizer.pad_token = tokenizer.pad_token or job["end_of_turn"]
        scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
        scorer.config.pad_token_id = tokenizer.pad_token_id
        args = trl.RewardConfig(**shared, max_length=job["length"])
        trainer = trl.RewardTrainer(model=scorer, args=args, processing_class=tokenizer, train_dataset=rows)
    else:
        policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        given = {"processing_class": tokenizer, "train_dataset": rows}
        if method == "dpo":
            more = {"max_length": job["length"], "precompute_ref_log_probs": job["precompute"], "beta": 0.1}
            trainer = trl.DPOTrainer(model=policy, args=trl.DPOConfig(**shared, **more), **given)
        elif method == "sft":
            args = trl.SFTConfig(**shared, max_length=job["length"], completion_only_loss=True)
            trainer = trl.SFTTrainer(model=policy, args=args, **given)
        else:
            drawing = {"num_generations": of_group, "max_completion_length": job["cap"], "beta": 0.05}
            args = trl.RLOOConfig(**shared, **drawing, shuffle_dataset=False)
            trainer = trl.RLOOTrainer(model=model, reward_funcs=shortest, args=args, **given)
    watched(trainer).train()
    gate.end()


main()
