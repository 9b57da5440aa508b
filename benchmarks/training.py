"""Training steps beside TRL's or another build's: the same rows, in turns, the same loss.

python -m benchmarks.training --method dpo --shape 29m --data pairs.jsonl --tokenizer bpe30k
python -m benchmarks.training --method sft --model SmolLM2-135M-Instruct --data pairs.jsonl --peer build:../old

TRL runs at its best: micro-batches of every size that divides a step are tried first, the reference is
precomputed, nothing is checkpointed, and it has the memory settings of glibc that trimtab gives itself. The last
line is one JSON object. Seconds are the processor's, on one thread; with --device cuda they are of the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from turns import HERE, Side, Step, in_turns

from trimtab.data.chat import ChatFormat, TruncationSettings, load_tokenizer
from trimtab.data.records import Record, read_records
from trimtab.data.split_groups import encode_records
from trimtab.training.schedule import groups_of_step

SHAPES = {
    "29m": {
        "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 30_000,
    },
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151_936, "rope_theta": 1e6,
    },
}  # fmt: skip
"""Layouts of random weights: a small one, and Qwen2.5-0.5B's."""
COMPLETIONS = {"sft": "first", "dpo": "pair", "reward": "pair", "grpo": "none"}
SEED = 42
KEEP_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647"}


def arguments() -> argparse.Namespace:
    """Of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=COMPLETIONS, default="dpo")
    parser.add_argument("--shape", choices=SHAPES, default="29m", help="random weights, with --tokenizer")
    parser.add_argument("--model", help="a folder, instead of a shape")
    parser.add_argument("--tokenizer", help="a folder")
    parser.add_argument("--data", required=True, help="pairs, as JSON lines")
    parser.add_argument("--peer", default="trl", help="trl, or build:CHECKOUT with a .venv")
    parser.add_argument("--groups", type=int, default=4, help="rows of a step; prompts for grpo")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2, help="steps that are left out")
    parser.add_argument("--length", type=int, default=512, help="longer rows are left out; prompt and completion")
    parser.add_argument("--samples", type=int, default=4, help="of a prompt, for grpo")
    parser.add_argument("--cap", type=int, default=128, help="new tokens, for grpo")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="of products")
    parser.add_argument("--trl-defaults", action="store_true", help="one micro-batch, the reference in every step")
    parser.add_argument("--micro-batch", type=int, help="TRL's, instead of the fastest of all that divide a step")
    parser.add_argument("--set", action="append", default=[], help="a setting of trimtab's side")
    return parser.parse_args()


def write_model(shape: str, tokenizer: str, folder: Path) -> Path:
    """A model of random weights, seed 0."""
    names = AutoTokenizer.from_pretrained(tokenizer)
    ends = {"eos_token_id": names.eos_token_id, "pad_token_id": names.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], **ends, max_position_embeddings=2048, tie_word_embeddings=True)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    names.save_pretrained(folder)
    return folder


def fitting(data: str, model: Path, length: int, count: int, out: Path) -> Path:
    """The first rows of distinct prompts that are no longer than the limit, so that nobody cuts anything."""
    rows = {}
    for line in Path(data).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if len(row["prompt"]) < 8 * length and row["chosen"] != row["rejected"]:
            rows.setdefault(row["prompt"], {name: row[name] for name in ("prompt", "chosen", "rejected")})
    every = list(rows.values())
    _write(out, every)
    chat = ChatFormat(load_tokenizer(str(model)), TruncationSettings(max_length=8 * length))
    groups, _ = encode_records(read_records(str(out)), chat, "pair")
    kept = [g.index for g in groups if len(g.prompt) + max(map(len, g.completions)) <= length]
    _write(out, [every[i] for i in kept[:count]])
    return out


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_for_trl(method: str, data: Path, model: Path, length: int, groups: int, steps: int, out: Path) -> str:
    """Writes TRL's rows, in the order of our steps, as text that the template made. Returns the end of a turn."""
    tokenizer = load_tokenizer(str(model))
    chat = ChatFormat(tokenizer, TruncationSettings(max_length=8 * length))
    records = read_records(str(data))
    encoded, _ = encode_records(records, chat, "pair")
    rows = [
        _row(method, records[group.index], tokenizer)
        for step in range(steps)
        for group in groups_of_step(encoded, step, groups, SEED)
    ]
    _write(out, rows)
    return str(tokenizer.convert_ids_to_tokens(chat.end_of_turn))


def _row(method: str, record: Record, tokenizer: Any) -> dict[str, str]:
    turns = [{"role": "user", "content": record.prompt}]
    prompt = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    chosen, rejected = record.completions[0], record.completions[-1]
    return {
        "sft": {"prompt": prompt, "completion": chosen},
        "dpo": {"prompt": prompt, "chosen": chosen, "rejected": rejected},
        "reward": {"chosen": prompt + chosen, "rejected": prompt + rejected},
        "grpo": {"prompt": prompt},
    }[method]


def our_side(name: str, python: str, args: argparse.Namespace, model: Path, data: Path, folder: Path) -> Side:
    """trimtab, of this or another checkout."""
    settings = {
        "batch_size": args.groups, "max_steps": args.steps, "learning_rate": 1e-6, "warmup_steps": 0,
        "precision": args.precision, "evaluation_interval": 10**6, "data.max_length": args.length, "seed": SEED,
    }  # fmt: skip
    command = [python, str(HERE / "side_trimtab.py"), str(args.warmup), args.method]
    command += ["--model", str(model), "--data", str(data), "--out", str(folder / name)]
    if args.method == "grpo":
        (folder / "reward.py").write_text(
            "def shortest(completions, **_):\n    return [-float(len(text)) for text in completions]\n"
        )
        command += ["--reward", f"{folder / 'reward.py'}:shortest"]
        settings |= {"samples": args.samples, "sampling.max_new_tokens": args.cap, "objective": "leave_one_out"}
    for setting in [*(f"{key}={value}" for key, value in settings.items()), *args.set]:
        command += ["--set", setting]
    return Side(name, command)


def trl_side(name: str, job: dict[str, Any], folder: Path) -> Side:
    """TRL, with these settings."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(job | {"out": str(folder / name)}))
    return Side(name, [sys.executable, str(HERE / "side_trl.py"), str(file)], KEEP_MEMORY)


def best_trl(job: dict[str, Any], most: int, folder: Path) -> tuple[dict[str, Any], dict[int, tuple[float, int]]]:
    """TRL's settings with the micro-batch that is fastest, and of each that was tried seconds a step and peak."""
    tried: dict[int, tuple[float, int]] = {}
    for size in (1, 2, 4, 8, 16, 32):
        if size > most or most % size:
            continue
        side = trl_side(f"trl-{size}", job | {"micro_batch": size, "steps": 4, "warmup": 1}, folder)
        in_turns([side], folder)
        tried[size] = sum(map(taken, side.steps[1:])) / 3, side.steps[-1].peak
    return job | {"micro_batch": min(tried, key=lambda size: tried[size][0])}, tried


def useful_gflop(args: argparse.Namespace, model: Path, data: Path) -> float | None:
    """GFLOP of the products of the steps that count, the fewest that give their gradient: two forward and four
    backward for each weight of the body and token that is fed, a shared prompt once, and for each of the head's and
    token that is predicted. Without attention's; None for grpo, whose tokens are drawn."""
    if args.method == "grpo":
        return None
    head = body = 0
    with safe_open(model / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            shape = file.get_slice(name).get_shape()
            if name == "model.embed_tokens.weight":
                head = 0 if args.method == "reward" else math.prod(shape)
            elif len(shape) == 2 and name != "lm_head.weight":
                body += math.prod(shape)
    chat = ChatFormat(load_tokenizer(str(model)), TruncationSettings(max_length=8 * args.length))
    encoded, _ = encode_records(read_records(str(data)), chat, COMPLETIONS[args.method])
    steps = range(args.warmup, args.steps)
    counted = [group for step in steps for group in groups_of_step(encoded, step, args.groups, SEED)]
    return sum(6e-9 * (body * group.packed_length + head * group.completion_tokens) for group in counted)


def taken(step: Step) -> float:
    """Seconds: of the processor, or of the clock where another device computes."""
    return step.wall if torch.cuda.is_available() else step.cpu


def product_rate() -> float:
    """GFLOP/s of the processor's float32 products of 1,024 × 1,024 on one thread: what the sides could reach at
    most."""
    torch.set_num_threads(1)
    a, b = torch.randn(2, 1024, 1024)
    rates = []
    for _ in range(12):
        started = time.process_time()
        a @ b
        rates.append(2 * 1024**3 / (time.process_time() - started) / 1e9)
    return statistics.median(rates)


def report(
    ours: Side, peer: Side, args: argparse.Namespace, before: float, gflop: float | None, **more: Any
) -> dict[str, Any]:
    """The last line. before: the rate of products before the turns; gflop: of all counted steps."""
    mine, theirs = ([taken(s) for s in side.steps[args.warmup :]] for side in (ours, peer))
    losses = [(a.loss, b.loss) for a, b in zip(ours.steps, peer.steps, strict=True)]
    rates = before, product_rate()
    share = None if gflop is None or args.device == "cuda" else gflop / sum(mine) / statistics.mean(rates)
    return {
        "method": args.method, "model": args.model or args.shape, "peer": args.peer, "groups": args.groups,
        "ours_s": round(statistics.median(mine), 3), "peer_s": round(statistics.median(theirs), 3),
        "ratio_of_sums": round(sum(theirs) / sum(mine), 2),
        "ratio_of_medians": round(statistics.median(theirs) / statistics.median(mine), 2),
        "ours_peak_mb": round(ours.steps[-1].peak / 2**20), "peer_peak_mb": round(peer.steps[-1].peak / 2**20),
        "largest_loss_difference": max(abs(a - b) for a, b in losses),
        "float32_gflops": [round(rate, 1) for rate in rates],
        "our_share_of_peak": None if share is None else round(share, 3), **more,
    }  # fmt: skip


def main() -> None:
    """Runs both sides."""
    args = arguments()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise SystemExit("--device cuda: PyTorch sees no such device here")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Path(args.model) if args.model else write_model(args.shape, args.tokenizer, folder / "model")
        data = fitting(args.data, model, args.length, args.groups * args.steps, folder / "rows.jsonl")
        ours = our_side("trimtab", sys.executable, args, model, data, folder)
        more: dict[str, Any] = {}
        if args.peer == "trl":
            rows = folder / "trl.jsonl"
            end = rows_for_trl(args.method, data, model, args.length, args.groups, args.steps, rows)
            most = args.groups * (args.samples if args.method == "grpo" else 1)
            job = {
                "method": args.method, "model": str(model), "rows": str(rows), "steps": args.steps,
                "warmup": args.warmup, "groups": args.groups, "micro_batch": most, "length": args.length,
                "precompute": not args.trl_defaults, "precision": args.precision,
                "samples": args.samples, "cap": args.cap, "end_of_turn": end,
            }  # fmt: skip
            if args.micro_batch:
                job["micro_batch"] = more["micro_batch"] = args.micro_batch
            elif not args.trl_defaults:
                job, tried = best_trl(job, most, folder)
                more = {
                    "micro_batch": job["micro_batch"],
                    "lowest_peer_peak_mb": round(min(p for _, p in tried.values()) / 2**20),
                }
            peer = trl_side("trl", job, folder)
        else:
            checkout = Path(args.peer.removeprefix("build:")).resolve()
            peer = our_side("peer", str(checkout / ".venv/bin/python"), args, model, data, folder)
        before = product_rate()
        in_turns([ours, peer], folder)
        print(json.dumps(report(ours, peer, args, before, useful_gflop(args, model, data), **more)))


if __name__ == "__main__":
    main()
