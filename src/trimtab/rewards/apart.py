"""Somebody else's code in our process: what it does to the process is undone when it returns.

A reward may seed or draw from the global generators, change the working directory (to which the run's own paths
are relative) or switch torch's modes; the run goes on as if it had not. Its own draws begin at a seed made of the
texts, so that they differ from step to step and are the same in a run that was stopped and goes on.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from trimtab.late import torch
from trimtab.notices import console

SLOW = 60.0
"""Seconds after which a reward that has not returned is mentioned."""


@contextmanager
def undisturbed(*texts: object) -> Iterator[None]:
    """texts: what the global generators' seed is made of while the foreign code runs."""
    seed = int.from_bytes(hashlib.blake2b(repr(texts).encode("utf-8", "replace"), digest_size=7).digest(), "big")
    used = bool(getattr(torch.cuda, "is_initialized")())  # noqa: B009  (untyped)
    devices = [torch.cuda.current_device()] if used else []
    pythons, numpys, where = random.getstate(), np.random.get_state(), _folder()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    gradients, exact = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)
            torch.set_grad_enabled(gradients)
            if torch.get_default_dtype() != dtype:
                torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if torch.are_deterministic_algorithms_enabled() != exact:
                torch.use_deterministic_algorithms(exact)
            if where is not None and _folder() != where:
                with suppress(OSError):
                    os.chdir(where)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


@contextmanager
def mentioned_when_slow(what: str, after: float | None = None) -> Iterator[None]:
    """A line where it takes long: nothing else tells a reward that hangs from a step that is slow."""
    seconds = SLOW if after is None else after

    def say() -> None:
        console.print(f"{what}: has been running for {seconds:g} s; Ctrl-C stops the run.")

    timer = threading.Timer(seconds, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
