"""Whether the hub can be asked at all: said at once, where its library would try for a minute."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies


def reach_hub(name: str, file: str = "config.json") -> None:
    """OSError where a name is not in the cache and the hub's host is not to be found: its library would try for
    more than a minute."""
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.is_offline_mode() or getproxies() or isinstance(try_to_load_from_cache(name, file), str):
        return
    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        raise OSError(f"{host} cannot be found: no network") from None
