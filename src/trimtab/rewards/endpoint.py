"""A server that answers JSON with JSON: asked with bounded retries, at a bounded rate, without leaking its key.

What becomes of an answer:
  200 with JSON                                         returned
  408, 409, 429, 5xx, no answer in time, a broken       asked again after a wait that doubles, with jitter, and is
  connection, an answer that is no JSON                 never shorter than Retry-After; at last UnansweredError
  a redirect, 401 to 405, 410                           TrimtabError: no other call would fare better
  any other status                                      RefusedError: it is about this one request

A connection carries one request. Some proxies send an answer twice; on a kept connection the copy would be read
as the next request's answer, also where it comes after the next request was sent, and no check of the socket sees
that. Besides, every request carries an id of its own; an answer with the id of another one is not taken.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
import uuid
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypedDict

from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.late import httpx

AGAIN = {408, 409, 429}
"""Statuses below 500 that another try may mend."""
STOP = {401, 402, 403, 404, 405, 410}
SHOWN = 200
"""Characters of a server's own words."""
LARGEST_ANSWER = 2**22
"""Bytes, decoded: a score is a few hundred."""
ID_HEADER = "X-Request-Id"
"""vLLM makes the id of its answers of it; others echo it, or do nothing."""
OWN_ID = re.compile(r"trimtab-[0-9a-f]{32}")


class RefusedError(Exception):
    """This request has no answer, and asking again would not give one. The text says why."""


class UnansweredError(Exception):
    """No answer; another try may give one. retry_after: seconds that the server asks to wait, or None."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RequestSettings(TypedDict, total=False):
    """How often and how patiently a server is asked; `Endpoint` describes each."""

    concurrency: int
    requests_per_minute: float | None
    timeout: float
    retries: int
    backoff: float
    longest_wait: float


class Endpoint:
    """A server that is asked: its address, its key, and how often and how patiently.

    url: without the path, checked by `checked_url`. key: sent as a bearer token, and shown nowhere.
    key_variable: where it would be, for messages.
    concurrency: requests under way at once. requests_per_minute: None for no limit; retries count.
    timeout: seconds for a whole answer. retries: after the first try. backoff: seconds that the first wait
    may last; longest_wait: that any may last, Retry-After included: a server that asks for more is UnansweredError.
    """

    def __init__(
        self,
        name: str,
        url: str,
        key: SecretStr | None = None,
        *,
        key_variable: str | None = None,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        timeout: float = 120.0,
        retries: int = 6,
        backoff: float = 1.0,
        longest_wait: float = 120.0,
    ) -> None:
        self.name, self.url, self.key, self.key_variable = name, url, key, key_variable
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries
        self.longest_wait = longest_wait
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_start = 0.0
        self._backoff = wait_random_exponential(multiplier=backoff, max=longest_wait)

    def client(self) -> httpx.AsyncClient:
        """Connections of one event loop, to be used as a context."""
        headers = {"Authorization": f"Bearer {self.key.get_secret_value()}"} if self.key else {}
        headers["Connection"] = "close"
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=0)
        return httpx.AsyncClient(headers=headers, limits=limits, timeout=None)  # see _once

    async def ask(self, client: httpx.AsyncClient, path: str, body: JsonObject) -> JsonValue:
        """The JSON that the server answers. Raises UnansweredError, RefusedError or TrimtabError."""
        # ASCII: a lone surrogate has no UTF-8, but an escape.
        content = json.dumps(body).encode("ascii")
        tries = AsyncRetrying(
            retry=retry_if_exception(self._may_pass),
            stop=stop_after_attempt(self.retries + 1),
            wait=self._wait,
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    return await self._once(client, f"{self.url}{path}", content)
        except UnansweredError as error:
            times = tries.statistics["attempt_number"]
            raise UnansweredError(f"{error} ({times} tries)" if times > 1 else str(error)) from None
        raise AssertionError("tenacity gives an answer or raises")

    def _may_pass(self, error: BaseException) -> bool:
        return isinstance(error, UnansweredError) and (error.retry_after or 0.0) <= self.longest_wait

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after", None)
        backoff = self._backoff(state)
        # Those who were told the same second do not all come back in it.
        return backoff if asked is None else min(max(backoff, asked * random.uniform(1.0, 1.1)), self.longest_wait)

    async def _once(self, client: httpx.AsyncClient, url: str, content: bytes) -> JsonValue:
        await self._turn()
        name = f"trimtab-{uuid.uuid4().hex}"
        headers = {"Content-Type": "application/json", ID_HEADER: name}
        try:
            async with asyncio.timeout(self.timeout):  # httpx's own would start anew with every byte
                async with client.stream("POST", url, content=content, headers=headers) as answer:
                    body = await _read_all(answer)
        except TimeoutError:
            raise UnansweredError(f"no answer within {self.timeout:g} s") from None
        except httpx.TransportError as error:
            raise UnansweredError(self.clean(f"connection: {type(error).__name__}: {error}")) from None
        except httpx.HTTPError as error:  # an answer that can't be decoded
            raise UnansweredError(self.clean(f"{type(error).__name__}: {error}")) from None
        value = self._read(httpx.Response(answer.status_code, headers=_kept(answer), content=body))
        if strange := foreign_id(value, answer.headers.get(ID_HEADER, ""), name):
            raise UnansweredError(f"an answer to another request ({strange})")
        return value

    async def _turn(self) -> None:
        """Waits for this request's place in the rate."""
        if not self._gap:
            return
        start = max(time.monotonic(), self._next_start)
        self._next_start = start + self._gap
        await asyncio.sleep(start - time.monotonic())

    def _read(self, answer: httpx.Response) -> JsonValue:
        status = answer.status_code
        if status == 200:
            try:
                return answer.json(parse_int=_number)
            except (ValueError, RecursionError):  # a gateway's page, or half an answer
                kind = answer.headers.get("content-type", "no content type")
                raise UnansweredError(self.clean(f"an answer that is no JSON ({kind}): {answer.text}")) from None
        said = self.clean(f"{status} {answer.reason_phrase}: {answer.text}")
        if status in AGAIN or status >= 500:
            raise UnansweredError(said, retry_after(answer.headers.get("retry-after")))
        if status in STOP or 300 <= status < 400:
            raise TrimtabError(f"reward {self.name}: {self.url} answers {said}. {self._advice(status)}")
        raise RefusedError(said)

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            if self.key is not None:
                return f"The key in {self.key_variable or 'the environment'} is not valid here."
            if self.key_variable:
                return f"No key was sent: put it into the environment variable {self.key_variable}."
            return "No key was sent: name the environment variable that holds it in the reward's api_key_variable."
        if status == 402:
            return "The account has no credit left."
        if status in (404, 405, 410):
            return "Check the reward's model and base_url: the server knows no such model, or no such path."
        return "Name the address that it redirects to: a key is not sent after it."

    def clean(self, text: str) -> str:
        """A server's words on one short line, without the key, which some servers echo."""
        if self.key:
            text = text.replace(self.key.get_secret_value(), "[key]")
        line = " ".join(text.split())
        return line if len(line) <= SHOWN else line[:SHOWN] + "…"


async def _read_all(answer: httpx.Response) -> bytes:
    parts, size = [], 0
    async for part in answer.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise RefusedError(f"an answer of more than {LARGEST_ANSWER} bytes")
    return b"".join(parts)


def _kept(answer: httpx.Response) -> dict[str, str]:
    """Headers that are read; not those of an encoding that is undone already."""
    return {n: answer.headers[n] for n in ("content-type", "retry-after") if n in answer.headers}


def foreign_id(answer: object, header: str, ours: str) -> str | None:
    """The id of another of our requests in an answer, or None. An id of the server's own making says nothing."""
    said = str(answer.get("id", "")) if isinstance(answer, dict) else ""
    ids = OWN_ID.findall(f"{said} {header}")
    return None if not ids or ours in ids else str(ids[0])


def _number(digits: str) -> int | float:
    """An integer, or infinity where it is too large for a float: then it is no score, and not an error."""
    return int(digits) if len(digits) < 300 else float(digits)


def retry_after(value: str | None) -> float | None:
    """Seconds from now that a Retry-After header asks for, in either of its forms (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def checked_url(name: str, url: str, where: str) -> str:
    """An address without its closing slash. TrimtabError, which never shows it, where it is none or holds a secret.

    where: what gave it, such as "base_url" or an environment variable.
    """
    try:
        address = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError):
        address = httpx.URL("")
    if address.scheme not in ("http", "https") or not address.host:
        raise TrimtabError(f"reward {name}: {where} is no address. Expected one such as http://127.0.0.1:8000.")
    if address.userinfo or address.query or address.fragment:
        raise TrimtabError(
            f"reward {name}: {where} holds more than an address (a user, a password or a ?query), and addresses "
            "are written to files. Put the key into the environment and name its variable in api_key_variable."
        )
    return str(address).rstrip("/")


def key_named(name: str, variable: str | None, needed: bool = False) -> SecretStr | None:
    """The key in an environment variable; None where there is none and none is needed."""
    value = os.environ.get(variable, "").strip() if variable else ""
    if not value:
        if needed:
            raise TrimtabError(f"reward {name}: no key. Put it into the environment variable {variable}.")
        return None
    if not re.fullmatch(r"[!-~]+", value):  # what a header can hold; httpx's error would show it
        raise TrimtabError(f"reward {name}: the key in {variable} has characters that no key has. Copy it anew.")
    return SecretStr(value)
