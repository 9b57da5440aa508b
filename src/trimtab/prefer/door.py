"""Who may come in: checks before any page is made, and the headers of every answer.

- Host: only names under which the page is served. Another site's name that resolves to this machine (DNS
  rebinding) is none of them; an address in numbers never is such a name.
- Other sites: what changes something must come from this page's own origin (`Origin`, `Sec-Fetch-Site`); nothing
  but a link may come from elsewhere, and no header lets another origin read.
- Token: where one is needed, nothing is answered without it. It comes once in the address, and then in a cookie
  that no script can read and no other site sends.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Literal
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Role = Literal["judge", "owner"]
MONTH = 30 * 24 * 3600
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "x-dns-prefetch-control": "off",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Tokens:
    """judge: of those who vote. owner: of whoever started the page, who also sees the numbers."""

    judge: str
    owner: str

    def role_of(self, token: str) -> Role | None:
        """In time that does not depend on where a wrong token differs."""
        given = token.encode("utf-8", "replace")
        roles: tuple[Role, Role] = ("judge", "owner")
        found = [secrets.compare_digest(given, known.encode()) for known in (self.judge, self.owner)]
        return next((role for role, same in zip(roles, found, strict=True) if same), None)


class Door:
    """ASGI middleware. names: hosts under which the page is served, in lower case; numeric: whether any address in
    numbers is one, too. tokens: None where whoever reaches the page may use it, and owns it. cookie: its name."""

    def __init__(
        self, app: ASGIApp, names: Collection[str], numeric: bool, tokens: Tokens | None, cookie: str
    ) -> None:
        self.app, self.names, self.numeric = app, frozenset(names), numeric
        self.tokens, self.cookie = tokens, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no websockets; lifespan is off
        headers = Headers(scope=scope)
        cookie: list[str] = []

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answered[name] = value
                for value in cookie:
                    answered.append("set-cookie", value)
            await send(message)

        refused = self._refused(scope["method"], headers)
        role: Role | None = "owner"
        if refused is None and self.tokens is not None:
            asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
            role = self._role(self.tokens, asked, headers)
            if role is None:
                refused = PlainTextResponse("Open the address that trimtab printed: it holds a token.\n", 401)
            elif asked:
                cookie.append(f"{self.cookie}={asked[0]}; Path=/; HttpOnly; SameSite=Strict; Max-Age={MONTH}")
        if refused is not None:
            await refused(scope, receive, with_headers)
            return
        scope.setdefault("state", {})["role"] = role
        await self.app(scope, receive, with_headers)

    def _role(self, tokens: Tokens, asked: list[str], headers: Headers) -> Role | None:
        if asked:
            return tokens.role_of(asked[0])
        for line in headers.getlist("cookie"):
            try:
                held = SimpleCookie(line).get(self.cookie)
            except CookieError:
                continue
            if held is not None:
                return tokens.role_of(held.value)
        return None

    def _refused(self, method: str, headers: Headers) -> PlainTextResponse | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._serves(hosts[0]):
            return PlainTextResponse("This page is not served under that name.\n", 421)
        if method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Only GET and POST.\n", 405, {"allow": "GET, HEAD, POST"})
        site = headers.get("sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none") and not (
            method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        ):
            return PlainTextResponse("Not from another site.\n", 403)
        if method == "POST":
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2].lower() != hosts[0].lower():
                return PlainTextResponse("Not from another site.\n", 403)
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                return PlainTextResponse("JSON only.\n", 415)
        return None

    def _serves(self, host: str) -> bool:
        name = _without_port(host.strip().lower())
        return name in self.names or (self.numeric and is_numeric(name))


def _without_port(host: str) -> str:
    """The name of a Host header; of an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def is_numeric(name: str) -> bool:
    """Whether a host is an address in numbers."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
