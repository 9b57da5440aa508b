"""Whether training reward and judge part during GRPO or PPO: over-optimisation, or reward hacking (Gao et al.
2023).

At every evaluation both score the same completions of held-out prompts. From the first evaluation to the
last, a change counts where it exceeds twice the root mean square of the changes from one evaluation to the
next; it takes at least three evaluations. For values that only scatter, that is two standard deviations of
the change; a steady trend passes it with four evaluations, a single jump with six: conservative.

    parted     the training reward is higher than at the start, and the judge's fall counts
    together   both rises count
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.evaluation.results import StageCurves

REWARD, JUDGE, KL = "eval_reward", "eval_judge", "eval_kl"
FEWEST = 3


@dataclass(frozen=True)
class Evaluation:
    """Means over the same completions: reward and judge in their own units, KL to the reference in nats."""

    step: int
    reward: float
    judge: float
    kl: float | None


def evaluations(curves: StageCurves) -> list[Evaluation]:
    """Those that have both scores, in order."""
    points = []
    for row in curves.validation:
        step, reward, judge, kl = (row.get(key) for key in ("step", REWARD, JUDGE, KL))
        if isinstance(step, int) and isinstance(reward, (int, float)) and isinstance(judge, (int, float)):
            points.append(Evaluation(step, reward, judge, kl if isinstance(kl, (int, float)) else None))
    return sorted(points, key=lambda e: e.step)


def change(values: Sequence[float]) -> float:
    """Last − first where it counts, else 0."""
    if len(values) < FEWEST:
        return 0.0
    between = np.diff(np.asarray(values, dtype=np.float64))
    total = float(values[-1] - values[0])
    return total if abs(total) > 2 * float(np.sqrt((between**2).mean())) else 0.0


def reward_against_judge(path: Sequence[Evaluation]) -> Literal["parted", "together"] | None:
    """None: neither, or nothing to tell by."""
    if len(path) < FEWEST:
        return None
    judge, reward = change([e.judge for e in path]), change([e.reward for e in path])
    if judge < 0 and path[-1].reward > path[0].reward:
        return "parted"
    return "together" if judge > 0 and reward > 0 else None


def sentence(path: Sequence[Evaluation]) -> str:
    """ "the training reward went from 0.10 to 0.90 and the judge from 2.00 to 1.20 by step 60 (KL 8.1 nats)"."""
    first, last = path[0], path[-1]
    kl = "" if last.kl is None else f" (KL to the reference {last.kl:.1f} nats)"
    numbers = (
        f"the training reward went from {first.reward:.2f} to {last.reward:.2f}, and the judge's score of the "
        f"same completions from {first.judge:.2f} to {last.judge:.2f}, by step {last.step}{kl}"
    )
    return numbers.replace("-", "−")
