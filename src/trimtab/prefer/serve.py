"""The page on a port: where it is reached, with which tokens, and until when."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import json
import logging
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import uvicorn

from trimtab.errors import TrimtabError
from trimtab.prefer.app import Served, make_app
from trimtab.prefer.door import Tokens

PORT, PORTS = 8017, 20
"""The first port that is tried where none is named, and how many."""
GRACE = 3
"""Seconds in which what is being answered is answered, once the page is to end."""
ANYWHERE = ("0.0.0.0", "::", "")


class Place:
    """Where the page is served. host: as asked for. port: None for the first that is free from PORT on; 0 for any.
    TrimtabError where the host is none of this machine's, or the port is taken."""

    def __init__(self, host: str, port: int | None) -> None:
        self.host = host
        self.socket = self._bound(port)
        self.port = int(self.socket.getsockname()[1])

    def _bound(self, port: int | None) -> socket.socket:
        ports = [port] if port is not None else range(PORT, PORT + PORTS)
        for number in ports:
            try:
                family, kind, protocol, _, address = socket.getaddrinfo(
                    self.host or None, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )[0]
            except OSError as error:
                raise TrimtabError(
                    f"--host {self.host}: {error.strerror}. Name an address of this machine."
                ) from None
            # With the protocol named, asyncio sends short answers at once (TCP_NODELAY), not 40 ms later.
            opened = socket.socket(family, kind, protocol)
            try:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                opened.bind(address)
                opened.listen(1024)
                return opened
            except OSError as error:
                opened.close()
                if not is_taken(error):
                    raise TrimtabError(f"--host {self.host} --port {number}: {error.strerror}.") from None
        taken = f"--port {port} is taken" if port is not None else f"ports {PORT} to {PORT + PORTS - 1} are taken"
        raise TrimtabError(f"{taken}: name another, such as --port 0 for any that is free.")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.socket.getsockname()[0]).is_loopback

    @property
    def names(self) -> frozenset[str]:
        """Hosts under which it is served."""
        own = {"localhost", "127.0.0.1", "::1", self.host.lower()}
        if not self.is_local:
            name = socket.gethostname().lower()
            own |= {name, f"{name}.local", socket.getfqdn().lower()}
        return frozenset(own - set(ANYWHERE))

    @property
    def address(self) -> str:
        """How it is reached: from elsewhere, where it is open to others."""
        host = self.host
        if host in ANYWHERE:
            host = _own_address() or socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"


def is_taken(error: OSError) -> bool:
    """Whether a port could not be bound because another process has it."""
    return error.errno == errno.EADDRINUSE


def _own_address() -> str | None:
    """This machine's address in its network: whence a packet would leave. None is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of an address for documents (RFC 5737)
        return str(probe.getsockname()[0])
    return None


def tokens_of(votes: Path) -> Tokens:
    """The tokens that stand beside a file of votes, made where there are none: an address that was given away goes
    on after a restart. Only their user can read them."""
    file = votes.with_name(f"{votes.name}.tokens")
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        return Tokens(str(read["judge"]), str(read["owner"]))
    except FileNotFoundError:
        made = Tokens(secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        text = json.dumps({"judge": made.judge, "owner": made.owner})
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
            opened.write(text)
        return made
    except (OSError, ValueError, KeyError, TypeError):
        raise TrimtabError(f"{file}: holds no tokens. Remove it, and new ones are made.") from None


def key_of(votes: Path) -> str:
    """What a browser calls this file of votes."""
    return hashlib.sha256(str(votes.resolve()).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def at(place: Place, served: Served, votes: Path) -> Served:
    """What is served, with what belongs to its place."""
    return replace(
        served,
        names=place.names,
        numeric=place.host in ANYWHERE,
        tokens=None if place.is_local else tokens_of(votes),
        cookie=f"trimtab-{place.port}",
    )


def addresses(place: Place, served: Served) -> tuple[str, str]:
    """For those who judge, and for whoever started the page."""
    if served.tokens is None:
        return place.address, place.address
    return f"{place.address}?token={served.tokens.judge}", f"{place.address}?token={served.tokens.owner}"


@contextlib.contextmanager
def serving(place: Place, served: Served) -> Iterator[uvicorn.Server]:
    """Inside, the page is served by a thread: for tests, and for whoever has something else to do meanwhile."""
    server = _server(served)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.socket]}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(GRACE + 5)


def serve(place: Place, served: Served, opens: bool) -> None:
    """Until a signal ends it, which is raised again then. opens: whether a browser is opened, too."""
    if opens:
        threading.Timer(0.5, webbrowser.open, [addresses(place, served)[1]]).start()
    _server(served).run(sockets=[place.socket])


def _server(served: Served) -> uvicorn.Server:
    # What is wrong is said in a line by the application; uvicorn's own lines would hold tracebacks.
    if not os.environ.get("TRIMTAB_DEBUG"):
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        make_app(served),
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,  # an address may hold a token
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(config)
