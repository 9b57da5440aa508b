"""Rewards on a server: one request for each completion, several at once, and every score kept.

A completion that can't be scored has its reason. Where the server itself is away, the run stops instead of
going on without a reward: what was scored is in the cache, and the same command goes on from there.
"""

from __future__ import annotations

import asyncio
import copy
import re
from abc import abstractmethod
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from trimtab.data.settings import SECONDS
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.late import httpx
from trimtab.progress import Progress
from trimtab.rewards.awaiting import wait_for
from trimtab.rewards.base import Columns, Prompt, Reward, Scored
from trimtab.rewards.cache import LEASE, Item, ScoreCache
from trimtab.rewards.endpoint import Endpoint, RefusedError, RequestSettings, UnansweredError, checked_url
from trimtab.rewards.settings_base import NamedRewardSettings, RewardContext

AWAY_AFTER = 16
"""Completions in a row, or twice the concurrency where that is more, that the server left unanswered after all
tries: then it is away, and what comes next would fare no better."""

AGAIN = "|again"
"""Behind the signature of scores that were asked for a second time."""
LOOKED_AGAIN = 0.1
"""Seconds between looks for the scores that other processes are asking for."""


class RemoteRewardArguments(RequestSettings):
    """What the constructor of every remote reward takes by name, beside the model and the address."""

    name: str | None
    api_key_variable: str | None
    cache: ScoreCache | None


class RemoteRewardSettings(NamedRewardSettings):
    """The settings that rewards on a server share."""

    model: str | None = None
    """The model, as the server names it."""
    base_url: str | None = None
    """Where the server is: a plain address."""
    api_key_variable: str | None = None
    """The environment variable that holds the key; never the key itself."""
    concurrency: int = Field(16, gt=0, le=10_000)
    """Requests at once."""
    requests_per_minute: float | None = Field(None, gt=0, le=1e9)
    """Requests of a minute at most, retries included; None: no limit."""
    timeout: float = Field(120.0, gt=0, le=SECONDS)
    """Seconds for a whole answer."""
    retries: int = Field(6, ge=0, le=1000)
    """Tries after the first."""
    backoff: float = Field(1.0, ge=0, le=SECONDS)
    """Seconds that the first wait may last; each further one twice that."""
    longest_wait: float = Field(120.0, ge=0, le=SECONDS)
    """Seconds that any wait may last, also where the server asks for more."""
    cache: str | None = None
    """The file of scores, to share it between runs; None: one in the run's folder."""
    is_remote: ClassVar[bool] = True
    scores_ignore: ClassVar[frozenset[str]] = frozenset(
        {"cache", "api_key_variable", *RequestSettings.__annotations__}
    )

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.api_key_variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_variable):
            # Perhaps the key itself, which must not be shown.
            raise ValueError("api_key_variable is the name of an environment variable, such as NVIDIA_API_KEY")
        if self.base_url:
            try:
                checked_url(self.name or self.kind, self.base_url, "base_url")
            except TrimtabError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def what(self) -> str:
        """The model, as the server names it."""
        return self.model or self.kind

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The model, wherever it is served: two settings with the same one are the same reward."""
        return ("model", self.model, None)

    @property
    def model_names(self) -> tuple[str, ...]:
        """The model, as the server names it."""
        return (self.model,) if self.model else ()

    def arguments(self, cache: Path | None) -> RemoteRewardArguments:
        """These settings as the reward's constructor takes them.

        cache: the file of scores where the settings name none.
        """
        file = Path(self.cache).expanduser() if self.cache else cache
        return {
            "name": self.name, "api_key_variable": self.api_key_variable,
            "cache": ScoreCache(file) if file else None,
            "concurrency": self.concurrency, "requests_per_minute": self.requests_per_minute,
            "timeout": self.timeout, "retries": self.retries, "backoff": self.backoff,
            "longest_wait": self.longest_wait,
        }  # fmt: skip

    def check(self) -> None:
        """TrimtabError for a bad address and a key that is not there. The server is not asked."""
        self.make(RewardContext({}))


class RemoteReward(Reward):
    """What remote kinds share; each says what it asks and how it reads the answer.

    signature: also the key of its scores in the cache.
    """

    path: str
    """Of the endpoint, behind its address."""
    asks_server = True

    def __init__(self, endpoint: Endpoint, signature: str, cache: ScoreCache | None = None) -> None:
        self.name, self.signature = endpoint.name, signature
        self.endpoint, self.cache = endpoint, cache
        self._unanswered = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.signature})"

    def again(self) -> Self:
        """Asks the server once more; these scores are kept apart, so that a run that goes on has them."""
        other = copy.copy(self)
        other.signature = f"{self.signature}{AGAIN}"
        return other

    @abstractmethod
    def body(self, messages: list[dict[str, str]]) -> JsonObject:
        """The request for a conversation whose last turn is to be scored."""

    @abstractmethod
    def read(self, answer: JsonValue) -> Scored:
        """The score in an answer, or why there is none. TrimtabError where no answer would have one."""

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order. The same prompt and completion are asked for once.

        TrimtabError where the server refuses everything, or is away; scores that came before that are kept.
        """
        items: list[Item] = list(zip(prompts, completions, strict=True))
        distinct = list(dict.fromkeys(items))
        try:
            scores = self.cache.get(self.signature, distinct) if self.cache is not None else {}
            if missing := [item for item in distinct if item not in scores]:
                with Progress(f"scores by {self.name}", len(distinct), "completions", len(scores)) as progress:
                    wait_for(self._ask_all(missing, scores, progress))
        except BaseExceptionGroup as errors:  # what `except*` raises Python 3.11.2 puts into another group
            met, others = errors.split(TrimtabError)
            if met is None or others is not None:
                raise
            raise _first(met) from None
        finally:
            if self.cache is not None:
                self.cache.close()  # so that the file is whole, and may be copied
        return [scores[item] for item in items]

    async def _ask_all(self, missing: Sequence[Item], scores: dict[Item, Scored], progress: Progress) -> None:
        """Asks for the missing items, or waits for other processes that do, and puts their scores into `scores`."""
        left = iter(missing)

        others: list[Item] = []
        """Claimed by other processes, which are asking for them."""

        async def work(client: httpx.AsyncClient, left: Iterator[Item]) -> None:
            for item in left:  # shared: each worker takes the next one
                scored = await self._of_us_or_others(client, item)
                if scored is None:
                    others.append(item)
                    continue
                scores[item] = scored
                progress.reach(len(scores))

        try:
            async with self.endpoint.client() as client, self._renewing():
                while True:
                    async with TaskGroup() as workers:
                        for _ in range(min(self.endpoint.concurrency, len(missing))):
                            workers.create_task(work(client, left))
                    if not others:
                        return
                    await asyncio.sleep(LOOKED_AGAIN)
                    left, others = iter(others), []
        finally:
            if self.cache is not None:
                with suppress(TrimtabError):  # they lapse by themselves
                    self.cache.release()

    async def _of_us_or_others(self, client: httpx.AsyncClient, item: Item) -> Scored | None:
        """Its score, or None where another process is about to have it."""
        if self.cache is None:
            return await self._ask(client, item)
        claimed = self.cache.claim(self.signature, item)
        if isinstance(claimed, Scored):
            return claimed
        if not claimed:
            return None
        scored = await self._ask(client, item)
        if scored.score is None:
            self.cache.release(self.signature, item)
        return scored

    @asynccontextmanager
    async def _renewing(self) -> AsyncIterator[None]:
        """Keeps this process's claims while it asks."""

        async def renew(cache: ScoreCache) -> None:
            while True:
                await asyncio.sleep(LEASE / 4)
                cache.renew()

        task = asyncio.create_task(renew(self.cache)) if self.cache is not None else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    async def _ask(self, client: httpx.AsyncClient, item: Item) -> Scored:
        prompt, completion = item
        try:
            answer = await self.endpoint.ask(client, self.path, self.body(conversation(prompt, completion)))
        except RefusedError as error:
            return Scored(None, str(error))
        except UnansweredError as error:
            self._unanswered += 1
            if self._unanswered >= max(AWAY_AFTER, 2 * self.endpoint.concurrency):
                raise TrimtabError(
                    f"reward {self.name}: {self._unanswered} completions in a row had no answer from "
                    f"{self.endpoint.url}; the last: {error}. Once it answers again, the same command goes on."
                ) from None
            return Scored(None, str(error))
        self._unanswered = 0
        scored = self.read(answer)
        if scored.score is not None and self.cache is not None:
            self.cache.put(self.signature, item, scored)
        return (
            scored if scored.score is not None else Scored(None, self.endpoint.clean(scored.reason or "no score"))
        )


def conversation(prompt: Prompt, completion: str) -> list[dict[str, str]]:
    """The prompt's turns, and the completion as the assistant's answer."""
    turns = [("user", prompt)] if isinstance(prompt, str) else [(m.role, m.content) for m in prompt]
    return [{"role": role, "content": content} for role, content in [*turns, ("assistant", completion)]]


def _first(errors: BaseExceptionGroup[TrimtabError]) -> TrimtabError:
    """Several workers may meet the same dead end at once."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, TrimtabError)
    return error
