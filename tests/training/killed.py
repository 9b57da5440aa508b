"""Ends this process at a named moment, as `arm` is told.

MOMENT: step (before the COUNT-th optimizer step begins), update (with its gradient, before the weights
change), sampling (before the COUNT-th token of a batch is drawn), scoring (a reward function was called, and
the COUNT-th score is about to be read), checkpoint (the COUNT-th checkpoint is written, but not renamed),
best (likewise for the best weights), reference (after COUNT passes of the reference), done (all trained,
done.json not written), arriving (before the COUNT-th completion of an evaluation is written), arrived (all are,
unmarked), none; SIGTERM, SIGHUP (that signal instead, in the middle of the COUNT-th step);
SIGTERM@answering, @judging, @reporting (that signal before the COUNT-th batch of an evaluation's completions,
before the COUNT-th judging, before the report is written).
"""

from __future__ import annotations

import os
import signal
from typing import Any

import torch

from trimtab import files
from trimtab.evaluation import arriving, measure, scoring
from trimtab.evaluation import generate as generating
from trimtab.models import reference
from trimtab.rewards import function
from trimtab.rollout import transformers as sampler
from trimtab.study import run as study
from trimtab.training import loop, stage


def arm(moment: str, count: int) -> None:
    """Has this process end at a moment, with SIGKILL where the moment names no signal."""
    left, number = count, signal.SIGKILL

    def hit(_: Any = None) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), number)

    def before(owner: Any, name: str, when: Any = lambda *a, **k: True) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when(*args, **kwargs):
                hit()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    name, _, place = moment.partition("@")
    if name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name)
    if moment in ("step", "SIGTERM", "SIGHUP"):
        before(loop.Loop, "train_step")
    elif moment == "update":
        before(torch.optim.AdamW, "step")
    elif moment == "sampling":
        before(sampler, "draw")
    elif moment == "scoring":
        before(function.FunctionReward, "_judge")
    elif moment in ("checkpoint", "best"):
        prefix = {"checkpoint": ".step-", "best": ".best"}[moment]
        # The directory aside is synced last, right before it is renamed.
        before(files, "sync", lambda path: path.name.startswith(prefix) and path.is_dir())
    elif moment == "reference":
        before(reference, "pack")
    elif place:
        before(
            *{
                "answering": (generating, "_rows_of_our_own"),
                "judging": (scoring, "score_all"),
                "reporting": (study, "_write_report"),
            }[place]
        )
    elif moment == "arriving":
        before(arriving.ArrivingRows, "add")
    elif moment == "arrived":
        before(measure, "mark_complete")
    elif moment == "done":
        before(stage, "mark_done")
