"""A reward server that fails on purpose, for tests and for trying a whole study without a real one.

    python tests/servers/nemotron_server.py --port 8000 --fault-rate 0.3 [--key KEY]

POST /v1/chat/completions answers as NVIDIA's endpoint does, POST /pooling as vLLM's. A score is a hash of the
conversation (`score_of`), so anyone can say what the server must have answered. Whether a request fails, and
how, is a hash of the conversation and of how often it was asked: the order of requests changes nothing.
GET /stats counts: {"asked": {conversation: n}, "scored": {conversation: n}, "faults": {kind: n}}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = (
    "429 with seconds", "429 with a date", "429", "500", "503", "hang", "reset", "half a body", "HTML", "nan",
)  # fmt: skip
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


def conversation_key(messages: list[dict[str, str]]) -> str:
    return hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:24]


def number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def score_of(messages: list[dict[str, str]]) -> float:
    """From -37.25 to 1.25 in steps of 1/8, as real Nemotron scores are; now and then 0."""
    return number("score", conversation_key(messages)) % 309 / 8 - 37.25


class RewardServer(ThreadingHTTPServer):
    """port: 0 for any that is free. key: what requests must carry. status: of every answer, where given.
    hang: seconds that a hanging request is held. delay: seconds before every answer. asked: of Retry-After."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        port: int = 0,
        fault_rate: float = 0.0,
        *,
        faults: tuple[str, ...] = FAULTS,
        key: str | None = None,
        status: int | None = None,
        hang: float = 60.0,
        delay: float = 0.0,
        asked: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.fault_rate, self.faults, self.key, self.status = fault_rate, faults, key, status
        self.hang, self.delay, self.seed, self.wait = hang, delay, seed, asked
        self.asked: Counter[str] = Counter()
        self.scored: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault_of(self, conversation: str, attempt: int) -> str | None:
        drawn = number("fault", self.seed, conversation, attempt)
        if drawn % 10_000 >= self.fault_rate * 10_000:
            return None
        return self.faults[drawn // 10_000 % len(self.faults)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed leave in the middle; nobody needs to read of it."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RewardServer

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            counts = {"asked": server.asked, "scored": server.scored, "faults": server.failed}
            body = json.dumps(counts).encode()
        self._send(200, body)

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = conversation_key(body["messages"])
        with server.lock:
            attempt = server.asked[key]
            server.asked[key] += 1
            server.bodies.append(body | {"path": self.path})
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        time.sleep(server.delay)
        with server.lock:  # before the answer: whoever has it may send the next at once
            server.under_way -= 1
        self._answer(body, key, attempt)

    def _answer(self, body: dict[str, Any], key: str, attempt: int) -> None:
        server = self.server
        sent = self.headers.get("Authorization", "")
        if server.key is not None and sent != f"Bearer {server.key}":
            self._send(401, json.dumps({"error": f"not authorized: {sent}"}).encode())
        elif server.status is not None:  # echoes what it was sent, as careless servers do
            self._send(server.status, json.dumps({"error": f"status on purpose; you sent {sent}"}).encode())
        elif fault := server.fault_of(key, attempt):
            with server.lock:
                server.failed[fault] += 1
            self._fail(fault)
        else:
            with server.lock:
                server.scored[key] += 1
            self._send(200, self._scored(score_of(body["messages"])))

    def _scored(self, score: float | str) -> bytes:
        if self.path == "/pooling":
            row = {"index": 0, "object": "pooling", "data": [score]}
            return json.dumps({"id": "pool-1", "object": "list", "data": [row]}).encode()
        message = {"role": "assistant", "content": f"reward:{score}"}
        return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()

    def _fail(self, fault: str) -> None:
        if fault.startswith("429"):
            wait = self.server.wait
            asked = {"429 with seconds": str(wait), "429 with a date": formatdate(time.time() + wait, usegmt=True)}
            self._send(
                429, b'{"error": "too many requests"}', {"Retry-After": asked[fault]} if fault in asked else {}
            )
        elif fault in ("500", "503"):
            self._send(int(fault), b'{"error": "internal"}')
        elif fault == "hang":
            time.sleep(self.server.hang)
            self.close_connection = True
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "half a body":
            whole = self._scored(0.0)
            self._send(200, whole[: len(whole) // 2], {"Content-Length": str(len(whole))})
            self.close_connection = True
        elif fault == "HTML":
            self._send(200, HTML, {"Content-Type": "text/html"})
        else:
            self._send(200, self._scored("nan" if self.path != "/pooling" else float("nan")))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        given = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: /stats tells more."""


@contextmanager
def serving(**settings: Any) -> Iterator[RewardServer]:
    """A server in this process, with RewardServer's settings."""
    server = RewardServer(**settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A reward server that fails on purpose.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    parser.add_argument("--key")
    parser.add_argument("--hang", type=float, default=60.0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    settings = vars(parser.parse_args())
    server = RewardServer(**settings)
    print(f"{server.address}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
