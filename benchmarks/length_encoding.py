"""Length control in the sandbox: SFT that counts down, against SFT and SFT with the length penalty.

    python benchmarks/length_encoding.py OUT

From `base`, as in `sandbox_sweeps.py OUT penalty`: one epoch where it says no other, the same 400 prompts, decoding
and judge. The first table has the mean absolute difference between an answer's tokens (end of turn included) and
the target, the second what the answers are worth; models that do not count have one set of answers, whatever the
target. Means ± standard error over prompts; what is done is kept.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from sandbox_sweeps import SFT_RATE, Sweep, _mean, cost, table

from trimtab.methods.sft_settings import LengthPenaltySettings
from trimtab.models.length_encoding import KEY

TARGETS = (10, 20, 40, 80)
PENALTY = LengthPenaltySettings(weight=0.003, interval=4, samples=2, max_new_tokens=128)
MODELS: dict[str, dict[str, Any]] = {
    "SFT": {},
    "SFT + length penalty": {"length_penalty": PENALTY},
    "countdown, strength 1": {"length_encoding": {"strength": 1.0}},
    "countdown, strength 0.3": {"length_encoding": {"strength": 0.3}},
    "countdown, strength 0.3, slack 0.5": {"length_encoding": {"strength": 0.3, "slack": 0.5}},
    "countdown, strength 1, three epochs": {"length_encoding": {"strength": 1.0}, "epochs": 3},
}


def without_countdown(best: Path, folder: Path) -> Path:
    """The same weights as transformers alone would run them."""
    shutil.copytree(best, folder, dirs_exist_ok=True)
    config = json.loads((best / "config.json").read_text())
    del config[KEY]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def run(sweep: Sweep) -> None:
    distances, outcomes = [], []
    for name, given in MODELS.items():
        stem = "length-" + name.replace(" ", "_").replace(",", "")
        folder = sweep.stage("sft", stem, sweep.base, learning_rate=SFT_RATE, **given)
        best, counts = folder / "best", "length_encoding" in given
        encoding = json.loads((best / "config.json").read_text()).get(KEY)
        distance = {"model": name}
        for target in TARGETS:
            label, asked = (f"{stem}-{target}", target) if counts else (stem, None)
            tokens = sweep.lengths(label, best, asked)
            distance[f"to {target}"] = _mean([abs(n - target) for n in tokens], 1)
            if counts:
                within = sum(n <= target for n in tokens) / len(tokens)
                close = sum(abs(n - target) <= 2 for n in tokens) / len(tokens)
                met = {"within 2": f"{close:.2f}", "at most": f"{within:.2f}"}
                outcomes.append({"model": name, "target": str(target), **met, **sweep.row(label, best, target)})
        distances.append({**distance, "CPU s": cost(folder)})
        target = f"– ({encoding['target_length']})" if counts else "–"
        none = {"within 2": "", "at most": ""}
        outcomes.append({"model": name, "target": target, **none, **sweep.row(stem, best)})
        if counts:
            plain = without_countdown(best, sweep.out / "without" / stem)
            row = sweep.row(f"{stem}-without", plain)
            outcomes.append({"model": f"{name}, not told", "target": "–", **none, **row})
    table(distances)
    print()
    table(outcomes)


if __name__ == "__main__":
    run(Sweep(Path(sys.argv[1])))
