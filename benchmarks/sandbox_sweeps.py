"""The sweeps of docs/experiment_log.md, in the sandbox: what each setting does to length, truth and cost.

    python benchmarks/sandbox_sweeps.py OUT early        penalty × early stopping
    python benchmarks/sandbox_sweeps.py OUT penalty      both estimators at three strengths, and the literal reading
    python benchmarks/sandbox_sweeps.py OUT variance     of the penalty's gradient, and its cost
    python benchmarks/sandbox_sweeps.py OUT dpo          learning rate × β
    python benchmarks/sandbox_sweeps.py OUT grpo         learning rate × KL

Each run is a stage in a folder of its own; what is done is kept. Every model answers the same 400 prompts, which no
report uses, at temperature 0.6, and is scored by the gold judge. Rows are printed as Markdown. Seconds are of the
processor, so that other jobs change them little.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.groups import cut_into_passes, pack
from trimtab.data.hashing import hash_source
from trimtab.data.split_groups import encode_records
from trimtab.data.splits import DataSettings, split_records
from trimtab.evaluation.measure import measure
from trimtab.evaluation.settings import Decoding, EvaluationSettings, EvaluationTask
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import LengthPenaltySettings, SFTSettings
from trimtab.methods.table import METHODS
from trimtab.models.loading import load_policy
from trimtab.recipe import STAGES
from trimtab.rewards.classifier import ClassifierReward
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.judge import GoldJudge
from trimtab.sandbox.starters import starter
from trimtab.study.collect import chosen_lengths
from trimtab.training.accelerator import make_accelerator
from trimtab.training.metrics import read_metrics
from trimtab.training.stage import run_stage
from trimtab.training.stage_method import TrainingContext

SEED, TEST_SEED = 0, 99
DECODING = EvaluationSettings(
    decoding=Decoding(strategy="sample", temperature=0.6, top_p=0.95, max_new_tokens=200, batch_size=100)
)
COMMON: dict[str, Any] = {"batch_size": 16, "warmup_steps": 10, "seed": SEED, "precision": "float32"}
SFT_RATE = 5e-4
LAST: dict[str, Any] = {"best_metric": "step", "best_is": "highest"}
"""Keeps the last weights, whatever they are."""


class Sweep:
    """Data, opponent and runs below one folder."""

    def __init__(self, out: Path, test_rows: int = 400) -> None:
        self.out = out
        sizes = (("train", 3000, SEED), ("validation", 300, SEED), ("test", test_rows, TEST_SEED))
        for split, rows, seed in sizes:
            path = out / "data" / f"{split}.jsonl"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_preferences(preference_data(split, rows, seed), path)
        self.judge, self.base = GoldJudge(), str(starter("base"))
        self.test = split_records(self.data()).test
        self.chosen = chosen_lengths(ChatFormat(load_tokenizer(self.base), self.data()), self.test)
        self.opponent = self.outputs("opponent", str(starter("instruct")))

    def data(self, rows: int | None = None) -> DataSettings:
        where = {name: str(self.out / "data" / f"{name}.jsonl") for name in ("train", "validation", "test")}
        return DataSettings(**where, train_rows=rows, max_length=384)

    def stage(self, kind: str, name: str, model: str, data: DataSettings | None = None, **given: Any) -> Path:
        """Trains, unless it is done. Returns the folder of the stage."""
        reward, judge = given.pop("reward", None), given.pop("judge", None)
        folder, made = self.out / kind / name, STAGES[kind](**COMMON | given)
        if not (folder / "done.json").is_file():
            started = time.process_time()
            cache = self.out / "cache"
            rows = data or self.data()
            run_stage(
                kind, METHODS[kind].method, made, rows, model, folder, cache=cache, reward=reward, judge=judge
            )
            (folder / "cost.json").write_text(json.dumps({"cpu_seconds": time.process_time() - started}))
        return folder

    def outputs(self, name: str, model: Path | str, target: int | None = None, tokenizer: str | None = None) -> Any:
        """What a model answers the test prompts, with gold's scores. target: of models with a length encoding."""
        model, place = str(model), self.out / "evaluation" / name.replace("/", "_")
        decoding = DECODING.decoding.model_copy(update={"target_length": target})
        settings = DECODING.model_copy(update={"decoding": decoding})
        hashed = hash_source(model)
        task = EvaluationTask(
            name, model, hashed, self.test, [], settings, self.data(), self.judge, place, tokenizer
        )
        return measure(task)

    def lengths(self, name: str, model: Path | str, target: int | None = None) -> list[int]:
        """Tokens of the answers. target: of models with a length encoding."""
        return [g.tokens for g in self.outputs(name, str(model), target).generations]

    def row(
        self, name: str, model: Path | str, target: int | None = None, tokenizer: str | None = None
    ) -> dict[str, str]:
        """Mean ± standard error over the prompts."""
        found = self.outputs(name, model, target, tokenizer)
        scores = [score.score for score in found.scores]
        theirs = [score.score for score in self.opponent.scores]
        wins = [(a > b) + 0.5 * (a == b) for a, b in zip(scores, theirs, strict=True)]
        tokens = [g.tokens for g in found.generations]
        excess = [max(0, n - chosen) for n, chosen in zip(tokens, self.chosen, strict=True)]
        correct = [score.breakdown["correctness"] for score in found.scores]
        return {
            "win rate": _mean(wins, 3),
            "gold": _mean(scores, 2),
            "correctness": _mean(correct, 2),
            "tokens": _mean(tokens, 1),
            "excess": _mean(excess, 1),
            "ended": f"{statistics.mean(g.terminated for g in found.generations):.3f}",
        }

    def sft(self) -> str:
        return str(self.stage("sft", "start", self.base, learning_rate=SFT_RATE, epochs=2) / "best")

    def proxy(self) -> ClassifierReward:
        given = {"learning_rate": SFT_RATE, "best_metric": "loss", "best_is": "lowest"}
        return ClassifierReward(str(self.stage("reward", "proxy", self.sft(), **given) / "best"), name="proxy")


def _mean(values: Any, digits: int) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"


def table(rows: list[dict[str, str]]) -> None:
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")


def cost(folder: Path) -> str:
    return f"{json.loads((folder / 'cost.json').read_text())['cpu_seconds']:.0f}"


def early(sweep: Sweep) -> None:
    """A third of the rows, ten epochs: enough to overfit. Without early stopping the last weights are kept."""
    rows = []
    for penalised in (False, True):
        penalty = LengthPenaltySettings(weight=0.003, interval=4, samples=2, max_new_tokens=128)
        for stopped in (False, True):
            name = f"early-{penalised}-{stopped}"
            given: dict[str, Any] = {"learning_rate": SFT_RATE, "epochs": 10}
            given |= {"patience": 130, "evaluation_interval": 15} if stopped else LAST
            given |= {"length_penalty": penalty} if penalised else {}
            folder = sweep.stage("sft", name, sweep.base, sweep.data(1000), **given)
            done = json.loads((folder / "done.json").read_text())
            known = {"penalty": "yes" if penalised else "no", "early stopping": "yes" if stopped else "no"}
            kept = {"step kept of": f"{done['best_step']} of {done['step']}"}
            fluency = {"validation loss": f"{validation_loss(sweep, folder / 'best'):.3f}"}
            rows.append(known | kept | fluency | sweep.row(name, folder / "best") | {"CPU s": cost(folder)})
    table(rows)


def validation_loss(sweep: Sweep, model: Path) -> float:
    """Nats a token."""
    from trimtab.evaluation.perplexity import fluency

    chat = ChatFormat(load_tokenizer(str(model)), sweep.data())
    records = split_records(sweep.data()).validation
    groups, _ = encode_records(records, chat, "first")
    found = fluency(load_policy(str(model)).eval(), chat, groups, records, 4096, torch.device("cpu"))
    return math.log(found.perplexity)


def penalty(sweep: Sweep) -> None:
    """One epoch of SFT; the penalty every 4 steps, two samples or paths a prompt."""
    variants: list[tuple[str, float | None]] = [("none", None), ("literal", 0.003)]
    variants += [(name, weight) for name in ("score_function", "stop_hazard") for weight in (3e-4, 3e-3, 3e-2)]
    rows = []
    for estimator, weight in variants:
        name = f"penalty-{estimator}-{weight}"
        given: dict[str, Any] = {"learning_rate": SFT_RATE}
        if weight is not None:
            given["length_penalty"] = LengthPenaltySettings(
                weight=weight, estimator=estimator, interval=4, samples=2, max_new_tokens=128
            )
        folder = sweep.stage("sft", name, sweep.base, **given)
        logged = [row for row in read_metrics(folder / "metrics.jsonl") if "length_penalty/grad_norm" in row]
        norms = [row["length_penalty/grad_norm"] for row in logged]
        known = {"estimator": estimator, "λ": "–" if weight is None else f"{weight:g}"}
        norm = {"penalty's gradient norm, median": f"{statistics.median(norms):.2g}" if norms else "–"}
        rows.append(known | sweep.row(name, folder / "best") | norm | {"CPU s": cost(folder)})
    table(rows)


def variance(sweep: Sweep, draws: int = 40) -> None:
    """At the SFT model, one batch of 16 prompts: E‖g − E g‖² ÷ ‖E g‖² of one estimate, both without bias."""
    chat = ChatFormat(load_tokenizer(sweep.sft()), sweep.data())
    groups, _ = encode_records(split_records(sweep.data()).train[:16], chat, "first")
    rows = []
    for estimator, samples in (
        ("score_function", 2),
        ("score_function", 4),
        ("stop_hazard", 1),
        ("stop_hazard", 2),
    ):
        given = LengthPenaltySettings(
            weight=1.0, estimator=estimator, samples=samples, interval=1, max_new_tokens=128
        )
        settings = SFTSettings(learning_rate=SFT_RATE, length_penalty=given, **COMMON)
        policy = load_policy(sweep.sft())
        method = SFT(
            settings, TrainingContext(policy, groups, [], settings, make_accelerator(settings), sweep.out, chat)
        )
        mean, squared, started = None, 0.0, time.process_time()
        for step in range(draws):
            policy.eval()
            extra = method.prepare(groups, step).extra
            assert extra is not None
            policy.zero_grad()
            for members in cut_into_passes(extra.groups, settings.token_budget):
                extra.loss(policy, pack(members), extra.total)[0].backward()
            g = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]).double()
            mean = g if mean is None else mean + (g - mean) / (step + 1)
            squared += float(g.square().sum()) / draws
        spread = (squared - float(mean.square().sum())) * draws / (draws - 1)
        signal = float(mean.square().sum()) - spread / draws
        rows.append(
            {
                "estimator": estimator,
                "samples": str(samples),
                "‖E g‖": f"{math.sqrt(max(signal, 0)):.3g}",
                "variance ÷ ‖E g‖²": f"{spread / signal:.2f}",
                "CPU s an estimate": f"{(time.process_time() - started) / draws:.2f}",
            }
        )
    table(rows)


def dpo(sweep: Sweep) -> None:
    """One epoch of 1,500 pairs; the checkpoint with the lowest validation loss is kept."""
    rows = [{"learning rate": "– (SFT)", "β": "", "eval accuracy": ""} | sweep.row("sft", sweep.sft())]
    for rate in (2e-5, 1e-4, 5e-4):
        for beta in (0.05, 0.2, 0.8):
            name = f"dpo-{rate:g}-{beta:g}"
            given = {
                "learning_rate": rate,
                "beta": beta,
                "best_metric": "loss",
                "best_is": "lowest",
                "evaluation_interval": 24,
            }
            folder = sweep.stage("dpo", name, sweep.sft(), sweep.data(1500), **given)
            kept = json.loads((folder / "done.json").read_text())["best_step"]
            evaluated = {row["step"]: row for row in read_metrics(folder / "metrics.jsonl") if "eval_loss" in row}
            accuracy = f"{evaluated[kept]['eval_rewards/accuracies']:.2f} at {kept}"
            known = {"learning rate": f"{rate:g}", "β": f"{beta:g}", "eval accuracy": accuracy}
            rows.append(known | sweep.row(name, folder / "best"))
    table(rows)


def grpo(sweep: Sweep) -> None:
    """25 steps of 16 prompts × 4 samples; the last weights are kept, whatever they are."""
    sft, proxy = sweep.sft(), sweep.proxy()
    rows = [{"learning rate": "– (SFT)", "λ": "", "proxy": "", "KL": ""} | sweep.row("sft", sft)]
    for rate in (3e-5, 1e-4, 3e-4):
        for weight in (0.0, 0.05, 0.2):
            name = f"grpo-{rate:g}-{weight:g}"
            folder = sweep.stage(
                "grpo", name, sft, reward=proxy, learning_rate=rate, kl_coefficient=weight, max_steps=25, samples=4,
                sampling={"max_new_tokens": 160, "batch_size": 256}, evaluation_interval=25, logging_interval=5,
                validation_prompts=60, **LAST,
            )  # fmt: skip
            last = read_metrics(folder / "metrics.jsonl")[-1]
            known = {"learning rate": f"{rate:g}", "λ": f"{weight:g}"}
            found = {"proxy": f"{last['eval_reward']:.2f}", "KL": f"{last['eval_kl']:.2f}"}
            rows.append(known | found | sweep.row(name, folder / "best"))
    table(rows)


if __name__ == "__main__":
    {"early": early, "penalty": penalty, "variance": variance, "dpo": dpo, "grpo": grpo}[sys.argv[2]](
        Sweep(Path(sys.argv[1]))
    )
