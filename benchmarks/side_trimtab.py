"""trimtab's side of a training benchmark: a command of this or another build, a step at a time.

python side_trimtab.py WARMUP dpo --model … --data … --out … --set …
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from turns import Gate

from trimtab.cli import main
from trimtab.training.loop import Loop

gate = Gate(int(sys.argv.pop(1)))
take_step = Loop.train_step


def gated(self: Loop, step: int) -> tuple[dict[str, float], int]:
    """The step between the two sides of the gate."""
    gate.before()
    metrics, tokens = take_step(self, step)
    gate.after(metrics["loss"])
    return metrics, tokens


loop: Any = Loop
loop.train_step = gated
try:
    main()
finally:
    gate.end()
