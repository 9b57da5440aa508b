"""A language model's stand-in that compares two answers, with planted biases of known size.

    python tests/servers/judge_server.py --port 8000 --position 0.2

POST /v1/chat/completions reads the two answers out of trimtab's own rubric. Which is better is the number behind
the word "quality" in each. Every draw is a hash of the question, so that anyone can say what it must have answered:

    position  share of questions that it decides by the place alone: for the first
    own       share of the others that it decides for the answer that holds `mark`, where one does
    length    share of the others that it decides by length alone: for the longer
    noise     share of verdicts that it draws anew whenever it is asked: for either
    garbled   share of replies that hold no verdict
    softness  0: replies without log-probabilities; else P(the verdict it gives) = 1 - softness

Faults of the way, keys and counts are those of nemotron_server.py.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from servers.nemotron_server import Handler, RewardServer, number
from trimtab.evaluation.judge_probes import PADDING

PART = r"<{0}>\n(.*?)\n</{0}>"


def uniform(*parts: object) -> float:
    """From 0 to 1."""
    return number(*parts) / 2**64


@dataclass(frozen=True)
class Biases:
    """What is planted; see the top of the file. says: a reply to everything, where given. truth: how good each
    answer is, where the answers themselves don't say."""

    position: float = 0.0
    own: float = 0.0
    mark: str = "own words"
    length: float = 0.0
    noise: float = 0.0
    garbled: float = 0.0
    softness: float = 0.0
    says: str | None = None
    seed: int = 0
    truth: Mapping[str, float] | None = None

    def verdict(self, question: str, attempt: int) -> str:
        """The reply to one question."""
        first, second = (re.search(PART.format(part), question, re.S)[1] for part in ("answer_A", "answer_B"))  # type: ignore[index]
        pair = (*sorted([first, second]), self.seed)
        if self.says is not None:
            return self.says
        if uniform("garbled", question, self.seed) < self.garbled:
            return "Answer A is the better one, since B is short."
        if uniform("noise", question, attempt, self.seed) < self.noise:
            return "AB"[number("side", question, attempt, self.seed) % 2]
        if uniform("position", *pair) < self.position:
            return "A"
        if uniform("own", *pair) < self.own and (self.mark in first) != (self.mark in second):
            return "A" if self.mark in first else "B"
        if uniform("length", *pair) < self.length and len(first) != len(second):
            return "A" if len(first) > len(second) else "B"
        one, other = self.quality(first), self.quality(second)
        return "tie" if one == other else "A" if one > other else "B"

    def quality(self, answer: str) -> float:
        """As the truth has it; else the number behind the word, or 0."""
        if self.truth is not None:
            return self.truth[answer.removesuffix(PADDING)]
        found = re.search(r"quality (-?\d+(\.\d+)?)", answer)
        return float(found[1]) if found else 0.0


class JudgeHandler(Handler):
    server: JudgeServer

    def _answer(self, body: dict[str, Any], key: str, attempt: int) -> None:
        self.body, self.attempt = body, attempt
        if self.server.without_logprobs and body.get("logprobs"):
            self._send(400, b'{"error": {"message": "logprobs are not supported"}}')
            return
        super()._answer(body, key, attempt)

    def _scored(self, score: float | str) -> bytes:
        biases = self.server.biases
        said = biases.verdict(self.body["messages"][-1]["content"], self.attempt)
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": said},
            "finish_reason": "stop",
        }
        if biases.softness and self.body.get("logprobs") and said in ("A", "B", "tie"):
            other = "A" if said == "B" else "B"
            chances = {said: 1 - biases.softness, f" {other}": biases.softness}
            top = [{"token": token, "logprob": math.log(chance)} for token, chance in chances.items()]
            choice["logprobs"] = {"content": [{"token": said, "logprob": top[0]["logprob"], "top_logprobs": top}]}
        return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


class JudgeServer(RewardServer):
    """biases: what is planted. without_logprobs: whether a request for them is refused, as some servers do."""

    def __init__(self, biases: Biases, port: int = 0, *, without_logprobs: bool = False, **settings: Any) -> None:
        super().__init__(port, **settings)
        self.RequestHandlerClass = JudgeHandler
        self.biases, self.without_logprobs = biases, without_logprobs

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"


@contextmanager
def judging(biases: Biases = Biases(), **settings: Any) -> Iterator[JudgeServer]:
    """A server in this process."""
    server = JudgeServer(biases, **settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A judge of pairs with planted biases.")
    parser.add_argument("--port", type=int, default=8000)
    for name in ("position", "length", "noise", "garbled", "softness"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    given = vars(parser.parse_args())
    server = JudgeServer(port=given.pop("port"), biases=Biases(**given))
    print(server.base_url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
