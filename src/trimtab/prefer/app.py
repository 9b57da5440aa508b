"""The page's server: it hands out items, takes votes, and shows who started it the numbers.

What a person is shown names no method. Every answer about votes is a function of the file of votes: the page may be
loaded anew, or the server started again, at any time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from trimtab.json_types import JsonObject
from trimtab.notices import say
from trimtab.prefer import bodies
from trimtab.prefer.ballot import Assignment, Ballot, NewVote, UnknownItemError, second_left
from trimtab.prefer.door import Door, Tokens
from trimtab.prefer.numbers_page import Numbers, progress
from trimtab.prefer.own import Asked, FullError, OwnPrompts
from trimtab.prefer.shown import shown, shown_prompt
from trimtab.report.templates import source

TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
Body = TypeVar("Body", bound=BaseModel)


@dataclass
class Served:
    """What one server serves. key: of this file of votes, so that a browser keeps apart what belongs to others.
    title: what people are told that they judge. own: prompts of one's own; None where there are no models. names,
    numeric, tokens, cookie: see Door. numbers: what its page of numbers says."""

    ballot: Ballot
    key: str
    title: str
    own: OwnPrompts | None = None
    tokens: Tokens | None = None
    names: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
    numeric: bool = False
    cookie: str = "trimtab"
    numbers: Callable[[Ballot], Numbers] = progress


def make_app(served: Served) -> Starlette:
    """The ASGI application."""
    pages, api = _Pages(served), _Api(served)
    post = ["POST"]
    routes = [
        Route("/", pages.judge),
        Route("/numbers", pages.numbers),
        Route("/static/{name}", pages.static),
        Route("/api/items", api.items, methods=post),
        Route("/api/votes", api.vote, methods=post),
        Route("/api/undo", api.undo, methods=post),
    ]
    if served.own is not None:
        routes += [
            Route("/side-by-side", pages.own),
            Route("/api/own", api.ask_own, methods=post),
            Route("/api/own/state", api.own_state, methods=post),
        ]
    door = Middleware(Door, names=served.names, numeric=served.numeric, tokens=served.tokens, cookie=served.cookie)
    handlers = {
        bodies.BodyError: _answer(400),
        UnknownItemError: _answer(404, "this item is not served here"),
        FullError: _answer(503, "too many prompts are waiting"),
        sqlite3.Error: _answer(503, "the file of votes could not be written"),
        HTTPException: _http_error,
        Exception: _failed,
    }
    return Starlette(routes=routes, middleware=[door], exception_handlers=handlers, max_body_size=bodies.LARGEST)


def _answer(status: int, words: str | None = None) -> Callable[[Request, Exception], Response]:
    def answer(_: Request, error: Exception) -> Response:
        if isinstance(error, sqlite3.Error):
            say(f"votes: {words} ({error}); the page sends it again")
        return JSONResponse({"error": words or str(error)}, status)

    return answer


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _failed(_: Request, error: Exception) -> Response:
    say(f"error: {type(error).__name__} while a page was answered")
    return JSONResponse({"error": "something is wrong here"}, 500)


class _Pages:
    def __init__(self, served: Served) -> None:
        self.served = served
        self.templates = Environment(
            loader=PackageLoader("trimtab.prefer", "page"), autoescape=True, undefined=StrictUndefined
        )
        self.files = _static_files()

    def _page(self, request: Request, template: str, **values: object) -> HTMLResponse:
        text = self.templates.get_template(template).render(
            title=self.served.title,
            key=self.served.key,
            has_own=self.served.own is not None,
            is_owner=request.state.role == "owner",
            here=request.url.path,
            **values,
        )
        return HTMLResponse(text)

    async def judge(self, request: Request) -> Response:
        return self._page(request, "judge.html.j2", own=False, reasons=bodies.REASONS)

    async def own(self, request: Request) -> Response:
        return self._page(request, "judge.html.j2", own=True, reasons=bodies.REASONS)

    async def numbers(self, request: Request) -> Response:
        if request.state.role != "owner":
            raise HTTPException(403, "only for whoever started the page: it would tell which method is which")
        now = await run_in_threadpool(self.served.numbers, self.served.ballot)
        return self._page(request, "numbers.html.j2", numbers=now)

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.files:
            raise HTTPException(404)
        return Response(self.files[name], media_type=TYPES[f".{name.rpartition('.')[2]}"])


def _static_files() -> Mapping[str, str]:
    """By name: scripts and styles of the page, and the report's script that marks words."""
    folder = files("trimtab.prefer") / "page"
    found = {
        file.name: file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if f".{file.name.rpartition('.')[2]}" in TYPES
    }
    return found | {"words.js": source("words.js")}


class _Api:
    def __init__(self, served: Served) -> None:
        self.ballot, self.prompts = served.ballot, served.own

    async def items(self, request: Request) -> Response:
        """The person's next items, how far the person is, and the latest vote, which undo would take back."""
        asked = await _read(request, bodies.ItemsAsked)

        def answer() -> JsonObject:
            found = self.ballot.next_for(asked.person, asked.count, asked.held) if asked.count else []
            return {"items": [_shown(one) for one in found], **self._standing(asked.person)}

        return JSONResponse(await run_in_threadpool(answer))

    async def vote(self, request: Request) -> Response:
        """kept: the id of the vote that stands, which is another's where the person had judged the item already."""
        cast = await _read(request, bodies.VoteCast)
        vote = NewVote(
            cast.vote_id, cast.item, cast.person, cast.repeated, cast.verdict, cast.reasons, cast.note,
            cast.milliseconds,
        )  # fmt: skip

        def answer() -> JsonObject:
            kept = self.ballot.record(vote)
            return {"kept": kept.vote_id, **self._standing(cast.person)}

        return JSONResponse(await run_in_threadpool(answer))

    async def undo(self, request: Request) -> Response:
        """undone: the item that is to be judged anew, as it was shown; None where no such vote stands."""
        asked = await _read(request, bodies.UndoAsked)

        def answer() -> JsonObject:
            done = self.ballot.undo(asked.person, asked.vote_id, asked.undo_id)
            item = _shown(done) if done is not None else None
            return {"undone": item, **self._standing(asked.person)}

        return JSONResponse(await run_in_threadpool(answer))

    async def ask_own(self, request: Request) -> Response:
        asked = await _read(request, bodies.OwnPrompt)
        assert self.prompts is not None
        self.prompts.ask(asked.ask_id, asked.person, asked.prompt)
        return self._own(asked.ask_id, asked.person)

    async def own_state(self, request: Request) -> Response:
        asked = await _read(request, bodies.OwnAsked)
        return self._own(asked.ask_id, asked.person)

    def _own(self, ask_id: str, person: str) -> Response:
        assert self.prompts is not None
        found = self.prompts.state(ask_id, person)
        if found is None:
            raise UnknownItemError
        asked, ahead = found
        return JSONResponse(_own_state(asked, ahead))

    def _standing(self, person: str) -> JsonObject:
        """How far a person is."""
        progress, last = self.ballot.progress(person), self.ballot.last_of(person)
        return {
            "voted": progress.voted,
            "left": progress.left,
            "last": {"vote_id": last.vote_id, "item": last.item.id, "own": last.item.purpose == "own"}
            if last
            else None,
        }


async def _read(request: Request, kind: type[Body]) -> Body:
    return bodies.read_body(kind, await request.body())


def _shown(one: Assignment) -> JsonObject:
    """An item as a person sees it: no method, and no word of which side is which."""
    return {
        "id": one.item.id,
        "repeated": one.repeated,
        "prompt": shown_prompt(one.item.prompt, one.item.messages),
        "left": shown(one.left),
        "right": shown(one.right),
    }


def _own_state(asked: Asked, ahead: int) -> JsonObject:
    item = None
    if asked.item is not None:
        item = _shown(Assignment(asked.item, second_left(asked.person, asked.item.id), False))
    return {"stage": asked.stage, "ahead": ahead, "error": asked.error, "item": item}
