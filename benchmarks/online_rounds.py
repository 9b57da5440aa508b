"""Iterated preference training in the sandbox, beside DPO on the data's pairs: one SFT model, one step count.

    python benchmarks/online_rounds.py OUT

Three rounds of 200 prompts × 4 samples, each pair trained on once, against 600 of the data's pairs in one pass.
All keep their last weights. 600 test prompts that no report uses, as decoded and judged in sandbox_sweeps.py.
Seconds are of the processor; what is done is kept.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from sandbox_sweeps import COMMON, LAST, Sweep, cost, table

from trimtab.data.records import read_records
from trimtab.evaluation.statistics import paired_difference
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.methods.rounds import run_rounds
from trimtab.rewards.base import Reward
from trimtab.sandbox.judge import GoldJudge

ROUNDS, PROMPTS = 3, 200
RATE: dict[str, Any] = {"learning_rate": 1e-4, "evaluation_interval": 1000}
ONLINE: dict[str, dict[str, Any]] = {
    "online DPO, proxy": {"beta": 0.2, "rewards": [{"kind": "trained"}]},
    "SPPO, proxy": {"loss": "sppo_estimated", "beta": 0.1, "rewards": [{"kind": "trained"}]},
    "online DPO, yes or no": {"beta": 0.2, "rewards": [{"kind": "yes_no"}]},
}


def rounds(sweep: Sweep, name: str, known: dict[str, Reward], given: dict[str, Any]) -> Path:
    """Runs the rounds, unless they are done. Returns their folder."""
    folder = sweep.out / "online" / name.replace(", ", "-").replace(" ", "_")
    sampling = {"max_new_tokens": 160, "batch_size": 256}
    settings = OnlineDPOSettings(
        **COMMON | RATE | {"rounds": ROUNDS, "prompts": PROMPTS, "samples": 4, "sampling": sampling} | given
    )
    if not (folder / "cost.json").is_file():
        started = time.process_time()
        scores = sweep.out / "scores.sqlite"
        run_rounds(settings, sweep.data(), None, sweep.sft(), folder, sweep.out / "cache", known, scores)
        (folder / "cost.json").write_text(json.dumps({"cpu_seconds": time.process_time() - started}))
    return folder


def agreement(source: Path, rows: int | None = None) -> str:
    """Share of pairs whose chosen completion has the higher gold score, ties half."""
    records, judge = read_records(str(source))[:rows], GoldJudge()
    better, worse = (judge.score([r.prompt for r in records], [r.completions[i] for r in records]) for i in (0, 1))
    right = sum((a > b) + 0.5 * (a == b) for a, b in zip(better, worse, strict=True))
    return f"{right / len(records):.2f}"


def line(sweep: Sweep, name: str, model: Path, seconds: str) -> dict[str, str]:
    """A row of the table. Its difference is to the SFT model over the same prompts, with a 95 % interval."""
    found, sft = sweep.row(name, model), sweep.sft()
    ours, theirs = ([s.score for s in sweep.outputs(*of).scores] for of in ((name, str(model)), ("SFT", sft)))
    apart = paired_difference(ours, theirs)
    low, high = apart.interval.pair()
    shown = {"gold − SFT's": f"{apart.difference:+.2f} [{low:+.2f}, {high:+.2f}]" if name != "SFT" else "–"}
    rest = {key: found[key] for key in ("correctness", "tokens", "ended")}
    judged = {"win rate": found["win rate"], "gold": found["gold"]}
    return {"method": name} | judged | shown | rest | {"CPU s": seconds}


def main(out: Path) -> None:
    sweep, pairs = Sweep(out, 600), ROUNDS * PROMPTS
    sft = Path(sweep.sft())
    rows = [line(sweep, "SFT", sft, "–")]
    folder = sweep.stage("dpo", "offline", str(sft), sweep.data(pairs), beta=0.2, **RATE, **LAST)
    rows.append(line(sweep, "DPO on the data's pairs", folder / "best", cost(folder)))
    proxy: dict[str, Reward] = {"trained": sweep.proxy()}
    drawn = []
    for name, given in ONLINE.items():
        folder = rounds(sweep, name, proxy, given)
        rows.append(line(sweep, name, folder / f"online_dpo-{ROUNDS}" / "best", cost(folder)))
        for number in range(1, ROUNDS + 1):
            place = folder / f"online_dpo-{number}-pairs"
            counts = json.loads((place / "done.json").read_text())
            means = {"mean reward": f"{counts['mean_reward']:.2f}", "mean tokens": f"{counts['mean_tokens']:.1f}"}
            right = {"pairs": str(counts["pairs"]), "right by gold": agreement(place / "pairs.jsonl")}
            drawn.append({"method": name, "round": str(number)} | right | means)
    table(rows)
    print(f"\nThe data's own pairs, right by gold: {agreement(out / 'data' / 'train.jsonl', pairs)}\n")
    table(drawn)
    for kind, name in (("sft", "start"), ("reward", "proxy")):
        print(f"{kind}: {cost(out / kind / name)} CPU s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
