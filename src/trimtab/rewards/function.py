"""A Python function as a reward, with TRL's signature unchanged.

    def reward(prompts, completions, completion_ids, **columns) -> list[float | None]

It may also ask for `trainer_state` (None here), `log_extra` (a column of values, one a completion, which
goes into each completion's breakdown) and `log_metric` (a number, see `take_metrics`), and may be async.
Where we depart: an argument that the function does not name is left out, so that it need not take
**kwargs; and an error in the function ends the run with a TrimtabError, as in TRL, while None and NaN are
a missing reward with its reason.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from trimtab.errors import TrimtabError
from trimtab.rewards.awaiting import wait_for
from trimtab.rewards.base import Prompt, Reward, Scored

Function = Callable[..., Any]


class FunctionReward(Reward):
    """Calls a function once for all completions: once for plain prompts and once for conversations, where
    there are both, since it sees strings of the ones and lists of messages of the others."""

    def __init__(self, function: Function, name: str | None = None) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.signature = f"function|{self.name}|{source_hash(function)}"
        self._metrics: dict[str, list[float]] = {}
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # some functions written in C tell nothing: they get everything
            parameters = inspect.signature(lambda **kwargs: None).parameters.values()
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self._takes = {p.name for p in named}
        self._needs = [p.name for p in named if p.default is p.empty]

    def take_metrics(self) -> dict[str, float]:
        """The mean of what the function gave to log_metric since the last call."""
        means = {name: sum(values) / len(values) for name, values in self._metrics.items()}
        self._metrics.clear()
        return means

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order; TrimtabError where the function fails as a whole."""
        out: list[Scored | None] = [None] * len(completions)
        for conversational in (False, True):
            rows = [i for i, p in enumerate(prompts) if isinstance(p, tuple) is conversational]
            if not rows:
                continue
            given: dict[str, Any] = {name: [values[i] for i in rows] for name, values in (columns or {}).items()}
            given["prompts"] = [_as_trl(prompts[i]) for i in rows]
            given["completions"] = [
                [{"role": "assistant", "content": completions[i]}] if conversational else completions[i]
                for i in rows
            ]
            if completion_ids is not None:
                given["completion_ids"] = [list(completion_ids[i]) for i in rows]
            for i, one in zip(rows, self._call(given, len(rows)), strict=True):
                out[i] = one
        return [one for one in out if one is not None]

    def _call(self, given: dict[str, Any], n: int) -> list[Scored]:
        extras: dict[str, list[Any]] = {}

        def log_extra(column: str, values: Iterable[Any]) -> None:
            extras[column] = self._of_length(values, n, f"log_extra({column!r}) of reward function {self.name}")

        def log_metric(name: str, value: float) -> None:
            self._metrics.setdefault(name, []).append(float(value))

        given |= {"trainer_state": None, "log_extra": log_extra, "log_metric": log_metric}
        if lacking := [name for name in self._needs if name not in given]:
            known = ", ".join(sorted(given))
            raise TrimtabError(
                f"reward function {self.name}: needs {', '.join(lacking)}, which is not there. Known: {known}."
            )
        passed = given if self._takes_all else {k: v for k, v in given.items() if k in self._takes}
        try:
            found = self.function(**passed)
            found = wait_for(found) if inspect.isawaitable(found) else found
        except Exception as error:
            raise TrimtabError(f"reward function {self.name}: {type(error).__name__}: {error}") from error
        values = self._of_length(found, n, f"reward function {self.name}")
        parts = ({column: extra[i] for column, extra in extras.items()} for i in range(n))
        return [self._judge(value, part) for value, part in zip(values, parts, strict=True)]

    @staticmethod
    def _of_length(values: Any, n: int, what: str) -> list[Any]:
        try:
            listed = list(values)
        except TypeError:
            kind = type(values).__name__
            raise TrimtabError(f"{what}: gave {kind}, not a list with a value for each completion.") from None
        if len(listed) != n:
            raise TrimtabError(f"{what}: gave {len(listed)} values for {n} completions.")
        return listed

    def _judge(self, value: Any, breakdown: dict[str, Any]) -> Scored:
        if value is None:
            return Scored(None, f"{self.name} gave None", breakdown)
        try:
            score = float(value)
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
            raise TrimtabError(f"reward function {self.name}: gave {value!r:.80}, which is not a number.") from None
        if not math.isfinite(score):
            return Scored(None, f"{self.name} gave {score}", breakdown)
        return Scored(score, breakdown=breakdown)


def _as_trl(prompt: Prompt) -> str | list[dict[str, str]]:
    return prompt if isinstance(prompt, str) else [{"role": m.role, "content": m.content} for m in prompt]


OWN_MODULE = "trimtab_reward_"
"""Beginning of the names of modules that are made from a file."""


def source_hash(function: Function) -> str:
    """A hash of a function's source, its defaults, and the plain values that it closes over or holds.

    Of one that load_function took from a file, the whole file: it is written for the reward. What other
    modules it calls is not seen.
    """
    plain = inspect.unwrap(function)
    while hasattr(plain, "func"):  # functools.partial
        plain = plain.func
    target = plain if inspect.isroutine(plain) or inspect.isclass(plain) else type(plain)
    try:
        text = inspect.getsource(target)
    except (OSError, TypeError):  # made by exec, or written in C
        text = f"{target.__module__}.{target.__qualname__}"
    if str(target.__module__).startswith(OWN_MODULE):
        text += inspect.getsource(sys.modules[target.__module__])
    cells = [_cell(cell) for cell in getattr(plain, "__closure__", None) or ()]
    kept = [getattr(plain, "__defaults__", None), getattr(plain, "__kwdefaults__", None), *cells]
    kept += [getattr(function, "args", None), getattr(function, "keywords", None)]
    kept += [] if target is plain else sorted(getattr(plain, "__dict__", {}).items())
    text += "\n".join(repr(value) if _is_plain(value) else type(value).__name__ for value in kept)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_plain(value: Any) -> bool:
    """Whether repr says the same in every run."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | bytes)


def load_function(spec: str) -> Function:
    """The function that "path/to/file.py:name" or "package.module:name" names; TrimtabError if there is none."""
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise TrimtabError(f"reward function {spec!r}: write it as path/to/file.py:name or package.module:name.")
    module = _load_file(spec, Path(where).expanduser()) if where.endswith(".py") else _load_module(spec, where)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise TrimtabError(
                f"reward function {spec}: {where} has no {name!r}. It has: {', '.join(public) or 'no function'}."
            )
        found = getattr(found, part)
    if not callable(found):
        raise TrimtabError(f"reward function {spec}: {name!r} is a {type(found).__name__}, not a function.")
    function: Function = found
    return function


def _load_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise TrimtabError(f"reward function {spec}: no such file as {path}.")
    unique = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    name = f"{OWN_MODULE}{path.stem}_{unique}"
    made = importlib.util.spec_from_file_location(name, path)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module  # dataclasses and pickle look a module up by its name
    try:
        made.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TrimtabError(f"reward function {spec}: {path} fails: {type(error).__name__}: {error}") from error
    return module


def _load_module(spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise TrimtabError(
            f"reward function {spec}: importing {name} fails: {type(error).__name__}: {error}"
        ) from error
