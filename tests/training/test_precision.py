"""What bf16 products do to what is learned, beside float32 ones: master weights are float32 in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training import real_runs
from training.real_runs import Plan, Weights, World

BOUND = 0.1


def norm(difference: Weights) -> float:
    return sum(float(part.double().pow(2).sum()) for part in difference.values()) ** 0.5


def less(one: Weights, other: Weights) -> Weights:
    return {name: weight - other[name] for name, weight in one.items()}


def drift(kind: str, plan: Plan, world: World, folder: Path) -> dict[str, float]:
    """‖Δw − Δw_float32‖ / ‖Δw_float32‖ of all weights, and of the embeddings and the rest apart."""
    ran: dict[str, Any] = {
        precision: getattr(real_runs, kind)(plan, world, folder / precision, precision=precision)
        for precision in ("float32", "bf16")
    }
    moved = less(ran["float32"].weights, world.start())
    off = less(ran["bf16"].weights, ran["float32"].weights)

    def ratio(*names: str) -> float:
        return norm({n: off[n] for n in names}) / norm({n: moved[n] for n in names})

    embeddings = [name for name in moved if "embed_tokens" in name]
    rest = [name for name in moved if name not in embeddings]
    return {"all": ratio(*moved), "embeddings": ratio(*embeddings), "rest": ratio(*rest)}
