"""Runs `trimtab` in this process and kills it with SIGKILL at a moment named on the command line.

    python killed.py MOMENT COUNT -- sft --model …

MOMENT: step (before the COUNT-th optimizer step's update), checkpoint (the COUNT-th checkpoint is written,
but not renamed), best (likewise for the best weights), reference (after COUNT passes of the reference),
done (all trained, done.json not written), none.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from trimtab import cli
from trimtab.models import reference
from trimtab.training import checkpoint, loop, stage


def main() -> None:
    moment, count, _, *arguments = sys.argv[1:]
    left = int(count)

    def hit(_: Any = None) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(owner: Any, name: str, when: Any = lambda *a, **k: True) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when(*args, **kwargs):
                hit()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    if moment == "step":
        before(loop.Loop, "train_step")
    elif moment in ("checkpoint", "best"):
        prefix = {"checkpoint": ".step-", "best": ".best"}[moment]
        # The directory aside is synced last, right before it is renamed.
        before(checkpoint, "sync", lambda path: path.name.startswith(prefix) and path.is_dir())
    elif moment == "reference":
        before(reference, "pack")
    elif moment == "done":
        before(stage, "_mark_done")
    sys.argv = ["trimtab", *arguments]
    cli.main()


main()
