"""From a file of preference pairs to token ids: `python -m benchmarks.data --rows N [--peer trl | build:COMMIT]`.

The rows are the real pairs of UltraFeedback in the shared data ($TRIMTAB_SHARED, or `../shared` beside the
checkout), repeated up to N; from the second time on a text's sentences behind the first are in another order. Few
texts come twice so, but all words do: less is new than with other rows. Both sides turn the same file into ids in
processes of their own that take turns: this package as a DPO stage does, TRL by its DPO trainer's own preparation,
with a process for each core. Reported are medians of the wall clock and of the CPU (children's too), and the
largest memory of the process and its children together. This package starts twice: the second time on the same rows
("again"), which it finds prepared. Pairs that both keep must have the same tokens, but for
what a template writes behind the end of the turn. The last line of output is a JSON object.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parents[1]
COMPARED = 2000
"""Pairs whose tokens both sides show."""
LONGEST = 1024
Pair = list[list[int]]
"""The ids of a prompt, of the chosen answer and of the rejected one."""


def shared() -> Path:
    """Real data and tokenizers."""
    return Path(os.environ.get("TRIMTAB_SHARED") or HERE.parent / "shared")


def write_rows(file: Path, count: int) -> None:
    """Real rows; where they are repeated, with their later sentences in another order."""
    lines = (shared() / "data" / "ultrafeedback" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    rows, chance = [json.loads(line) for line in lines if line], random.Random(0)

    def mixed(text: str) -> str:
        first, *rest = re.split(r"(?<=[.!?\n]) ?", text)
        return " ".join([first, *chance.sample(rest, len(rest))]).strip()

    with file.open("w", encoding="utf-8") as out:
        for i in range(count):
            row = {name: rows[i % len(rows)][name] for name in ("prompt", "chosen", "rejected")}
            out.write(json.dumps({n: mixed(t) if i >= len(rows) else t for n, t in row.items()}) + "\n")


def by_trimtab(file: Path, tokenizer: str) -> tuple[int, dict[int, Pair]]:
    """Rows kept, and some of them by their place in the file, as a DPO stage prepares them."""
    from trimtab.data.chat import ChatFormat, load_tokenizer
    from trimtab.data.split_groups import encode_records
    from trimtab.data.splits import DataSettings, split_records

    settings = DataSettings(train=str(file), max_length=LONGEST)
    keeps = "cache" in inspect.signature(split_records).parameters  # builds before it kept nothing
    splits = split_records(settings, *([file.parent / "prepared"] if keeps else []))
    groups, _ = encode_records(splits.train, ChatFormat(load_tokenizer(tokenizer), settings), "pair")
    shown = {
        group.index: [list(group.prompt), *map(list, group.completions)]
        for group in groups[:COMPARED]
        if group.index < COMPARED and not any(group.truncated)
    }
    return len(groups), shown


def by_trl(file: Path, tokenizer: str) -> tuple[int, dict[int, Pair]]:
    """The same by TRL, which keeps longer answers whole and cuts them in every batch."""
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import DPOTrainer

    def turns(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {name: [{"role": role, "content": row[name]}] for name, role in roles.items()}

    folder = str(file.parent / "trl")
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=folder)
    rows = rows.map(turns, num_proc=os.cpu_count()).map(lambda _, i: {"place": i}, with_indices=True)
    settings: Any = SimpleNamespace(
        dataset_num_proc=os.cpu_count(), max_length=LONGEST, truncation_mode="keep_start"
    )
    prepare: Callable[..., Any] = DPOTrainer._prepare_dataset
    rows = prepare(SimpleNamespace(), rows, AutoTokenizer.from_pretrained(tokenizer), settings, "train")
    some = rows.select(range(min(COMPARED, len(rows))))
    return len(rows), {row["place"]: [row[f"{n}_ids"] for n in ("prompt", "chosen", "rejected")] for row in some}


def memory_mib(root: int) -> float:
    """What a process and those that it has started hold of their own, and of what they share their part, now."""
    found, total = [root], 0
    for process in found:
        try:
            children = Path(f"/proc/{process}/task/{process}/children").read_text()
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        found += map(int, children.split())
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def one_side(side: str, file: Path, tokenizer: str) -> None:
    """Prepares once and prints what the other process reads."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(2):  # a look at a GiB takes tens of milliseconds
            peak = max(peak, memory_mib(os.getpid()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.monotonic()
    kept, pairs = (by_trl if side == "trl" else by_trimtab)(file, tokenizer)
    wall, used = time.monotonic() - start, os.times()
    peak = max(peak, memory_mib(os.getpid()))
    done.set()
    watcher.join()
    print(json.dumps({"wall": wall, "cpu": sum(used[:4]), "peak_mib": peak, "kept": kept, "pairs": pairs}))


def run(who: str, side: str, source: Path, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One turn of a side in a process of its own, with this package's source."""
    words = ["--side", side, "--file", str(file), "--tokenizer", options.tokenizer]
    env = os.environ | {"PYTHONPATH": str(source)}
    if side == "trl":
        env |= {"HF_DATASETS_CACHE": str(file.parent / "trl"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, __file__, *words], env=env, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    took = f"{found['wall']:.1f} s, {found['cpu']:.1f} s of the CPU, at most {found['peak_mib']:.0f} MiB"
    print(f"{who}: {took}, {found['kept']} rows", flush=True)
    return found


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> int:
    """How many pairs both sides show, all the same; TRL's answers go on behind the end of the turn."""
    both = ours["pairs"].keys() & theirs["pairs"].keys()
    for place in both:
        for mine, other in zip(ours["pairs"][place], theirs["pairs"][place], strict=True):
            if mine != other[: len(mine)] or len(other) > len(mine) + 1:
                sys.exit(f"row {place}: the two sides' tokens differ")
    return len(both)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns; medians."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, options.rows)
        sides = {"ours": ("trimtab", HERE / "src"), "again": ("trimtab", HERE / "src")}
        if options.peer:
            sides["peer"] = (options.peer, HERE / "src")
        if options.peer and options.peer.startswith("build:"):
            git = ["git", "-C", str(HERE), "archive", options.peer.removeprefix("build:"), "src"]
            packed = subprocess.run(git, stdout=subprocess.PIPE, check=True).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
            sides["peer"] = (options.peer, Path(folder) / "src")
        turns: dict[str, list[dict[str, Any]]] = {who: [] for who in sides}
        for _ in range(options.turns):
            for who, (side, source) in sides.items():
                if who != "again":  # nothing is kept from the last turn
                    for kept in ("trl", "prepared"):
                        shutil.rmtree(Path(folder) / kept, ignore_errors=True)
                turns[who].append(run(who, side, source, file, options))
    out: dict[str, Any] = {"rows": options.rows, "tokenizer": Path(options.tokenizer).name, "peer_is": options.peer}
    for who, took in turns.items():
        out[who] = {
            part: round(statistics.median(t[part] for t in took), 1) for part in ("wall", "cpu", "peak_mib")
        }
    if options.peer:
        out["ratio"] = {part: round(out["peer"][part] / out["ours"][part], 2) for part in ("wall", "cpu")}
        out["same_pairs"] = check(turns["ours"][0], turns["peer"][0])
    return out


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--tokenizer", default=str(shared() / "tokenizers" / "qwen2.5"))
    parser.add_argument("--peer", help="trl, or build:COMMIT of this package")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        one_side(options.side, options.file, options.tokenizer)
    else:
        print(json.dumps(compare(options)))


if __name__ == "__main__":
    main()
