"""trimtab: align small language models, and know whether it helped.

    import trimtab
    trained = trimtab.train("dpo", model="runs/sft/best", data="pairs.jsonl", out="runs/dpo", beta=0.1)
    results = trimtab.compare({"sft": "runs/sft/best", "dpo": trained}, data="held_out.jsonl")
    results.frame()

Nothing is loaded before it is asked for: `import trimtab` takes no time.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab import losses
    from trimtab.api import compare, evaluate, load_recipe, run_study, train
    from trimtab.errors import TrimtabError
    from trimtab.evaluation.results import Results
    from trimtab.models.loading import load_policy

# Threads that wait for each other spin by default: beside a busy process, through whole time slices of the very
# thread that they wait for. A step took up to 40 times as long. OpenMP reads this when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"
__all__ = [
    "Results",
    "TrimtabError",
    "compare",
    "evaluate",
    "load_policy",
    "load_recipe",
    "losses",
    "run_study",
    "train",
]
_PLACES = {
    "Results": "trimtab.evaluation.results",
    "TrimtabError": "trimtab.errors",
    "load_policy": "trimtab.models.loading",
}
"""Where a name is; the others are in trimtab.api."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    if name == "losses":
        return import_module("trimtab.losses")
    return getattr(import_module(_PLACES.get(name, "trimtab.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
