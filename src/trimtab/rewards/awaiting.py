"""Async code from code that is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any


def wait_for(awaitable: Awaitable[Any]) -> Any:
    """Waits for it, also where the caller is itself inside a running event loop."""

    async def result() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(result())
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((asyncio.run(result()), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    value, error = outcome
    if error is not None:
        raise error
    return value
