"""Runs `trimtab` in this process and kills it with SIGKILL at a moment named on the command line.

    python killed.py MOMENT COUNT -- sft --model …
    python killed.py turns JOBS.json        [[MOMENT, COUNT, [sft, --model, …]], …]

MOMENT: step (before the COUNT-th optimizer step begins), update (with its gradient, before the weights
change), sampling (before the COUNT-th token of a batch is drawn), scoring (a reward function was called, and
the COUNT-th score is about to be read), checkpoint (the COUNT-th checkpoint is written, but not renamed),
best (likewise for the best weights), reference (after COUNT passes of the reference), done (all trained,
done.json not written), arriving (before the COUNT-th completion of an evaluation is written), arrived (all are,
unmarked), none; SIGTERM, SIGHUP (that signal instead, in the middle of the COUNT-th step);
SIGTERM@answering, @judging, @reporting (that signal before the COUNT-th batch of an evaluation's completions,
before the COUNT-th judging, before the report is written).

turns: one process after the other, each a fork of this one, which has only imported. Prints their exit codes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from trimtab import cli, files
from trimtab.evaluation import arriving, measure, scoring
from trimtab.evaluation import generate as generating
from trimtab.models import reference
from trimtab.rewards import function
from trimtab.rollout import transformers as sampler
from trimtab.study import run as study
from trimtab.training import loop, stage


def arm(moment: str, count: int) -> None:
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


def run(moment: str, count: int, arguments: list[str]) -> None:
    arm(moment, count)
    sys.argv = ["trimtab", *arguments]
    cli.main()


def in_turn(jobs: list[tuple[str, int, list[str]]]) -> list[int]:
    codes = []
    for job in jobs:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(*job)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return codes


if __name__ != "__main__":
    pass  # a process that shares a study's work: nothing is planted in it
elif sys.argv[1] == "turns":
    print(json.dumps(in_turn(json.loads(Path(sys.argv[2]).read_text()))))
else:
    run(sys.argv[1], int(sys.argv[2]), sys.argv[4:])
