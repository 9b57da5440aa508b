"""A Python function as a reward, with TRL's signature unchanged.

    def reward(prompts, completions, completion_ids, **columns) -> list[float | None]

It may also ask for `trainer_state` (None here), `log_extra` (a column of values, one a completion, which
goes into each completion's breakdown) and `log_metric` (a number, see `take_metrics`), and may be async.
Where we depart: an argument that the function does not name is left out, so that it need not take **kwargs; an
error in the function ends the run with a TrimtabError, as in TRL, while None, NaN and absurdly large numbers are a
missing reward with its reason; and what the function does to the process is undone (rewards/apart.py).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from pathlib import Path
from types import CellType, CodeType, ModuleType
from typing import ClassVar, Literal

from pydantic import PrivateAttr

from trimtab.data.message import prompt_as_json
from trimtab.data.records import Record, columns_of
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.notices import warn
from trimtab.rewards.apart import mentioned_when_slow, undisturbed
from trimtab.rewards.awaiting import wait_for
from trimtab.rewards.base import Columns, Prompt, Reward, Scored
from trimtab.rewards.settings_base import NamedRewardSettings, RewardContext
from trimtab.rewards.values import error_words, listed, plain, scored, short

Function = Callable[..., object]
ALWAYS_GIVEN = ("trainer_state", "log_extra", "log_metric")
"""What a function may ask for whatever the rows have."""


class FunctionSettings(NamedRewardSettings):
    """A Python function with TRL's signature."""

    kind: Literal["function"]
    """A Python function with TRL's signature."""
    path: str | None = None
    """Where it is: path/to/file.py:name or package.module:name."""
    needed: ClassVar[tuple[str, ...]] = ("path",)
    _passed_function: Function | None = PrivateAttr(None)

    @property
    def what(self) -> str:
        """Where the function is, as the user wrote it."""
        return self.path or self.kind

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The function's place: two settings with the same one are the same reward."""
        return (self.kind, self.path)

    @property
    def place(self) -> tuple[str, ...]:
        """The parts of the file's path, or of the module's name."""
        where = (self.path or "").rpartition(":")[0]
        return Path(where).with_suffix("").parts if where.endswith(".py") else tuple(where.split("."))

    @classmethod
    def of(cls, function: object) -> FunctionSettings:
        """A function that a program passes itself: `path` says only what it is called. TrimtabError for none."""
        module = getattr(function, "__module__", None) or type(function).__module__
        name = getattr(function, "__qualname__", type(function).__qualname__)
        passed = checked_function(f"{module}:{name}", name, function)
        settings = cls(kind="function", path=f"{module}:{name}")
        settings._passed_function = passed
        return settings

    def load(self) -> FunctionReward:
        """The function as a reward; TrimtabError where there is no such function."""
        return FunctionReward(self._passed_function or load_function(self.path or ""), self.name)

    def make(self, context: RewardContext) -> Reward:
        """The loaded function; TrimtabError where there is none."""
        return self.load()

    def check(self) -> None:
        """Loads the function, which is quick; TrimtabError where there is none."""
        self.load()

    def check_rows(self, records: Sequence[Record], given: Collection[str] = ()) -> None:
        """TrimtabError where the function needs a column that the rows don't have."""
        self.load().check_arguments({*columns_of(records), "prompts", "completions", *given, *ALWAYS_GIVEN})


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
        if by_place := [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]:
            raise TrimtabError(
                f"reward function {self.name}: takes {', '.join(by_place)} by position only, and arguments come by "
                "name. Take the '/' (or '__') out of its signature."
            )
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self._takes = {p.name for p in named}
        self._needs = [p.name for p in named if p.default is p.empty]

    def reads(self, column: str) -> bool:
        """Whether the function names the column among its arguments, or takes them all."""
        return self._takes_all or column in self._takes

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
        columns: Columns | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order; TrimtabError where the function fails as a whole."""
        out: list[Scored | None] = [None] * len(completions)
        for conversational in (False, True):
            rows = [i for i, p in enumerate(prompts) if isinstance(p, tuple) is conversational]
            if not rows:
                continue
            # Copies: what the function does to a row's list must not reach the data.
            arguments: dict[str, object] = {
                name: [deepcopy(values[i]) for i in rows] for name, values in (columns or {}).items()
            }
            arguments["prompts"] = [prompt_as_json(prompts[i]) for i in rows]
            arguments["completions"] = [
                [{"role": "assistant", "content": completions[i]}] if conversational else completions[i]
                for i in rows
            ]
            if completion_ids is not None:
                arguments["completion_ids"] = [list(completion_ids[i]) for i in rows]
            for i, scored_row in zip(rows, self._call(arguments, len(rows)), strict=True):
                out[i] = scored_row
        return [scored_row for scored_row in out if scored_row is not None]

    def check_arguments(self, available: Collection[str]) -> None:
        """TrimtabError where the function needs an argument that is not among these."""
        if lacking := [name for name in self._needs if name not in available]:
            near = {name: difflib.get_close_matches(name, available, n=1, cutoff=0.6) for name in lacking}
            hints = ", ".join(f"{matches[0]} for {name}" for name, matches in near.items() if matches)
            raise TrimtabError(
                f"reward function {self.name}: needs {', '.join(lacking)}, which is not there. "
                + (f"Did you mean {hints}? " if hints else "")
                + f"Known: {', '.join(sorted(available))}."
            )

    def _call(self, arguments: dict[str, object], n: int) -> list[Scored]:
        extras: dict[str, list[JsonValue]] = {}

        def log_extra(column: str, values: object) -> None:
            what = f"reward function {self.name}: log_extra({short(column)!r})"
            if not isinstance(column, str):
                raise TrimtabError(f"{what}: a column's name is text, not {type(column).__name__}.")
            extras[column] = [plain(value) for value in listed(values, n, what)]

        arguments |= dict(zip(ALWAYS_GIVEN, (None, log_extra, self._log_metric), strict=True))
        self.check_arguments(arguments)
        passed = arguments if self._takes_all else {k: v for k, v in arguments.items() if k in self._takes}
        texts = self.name, arguments["prompts"], arguments["completions"]
        with undisturbed(*texts), mentioned_when_slow(f"reward function {self.name}"):
            values = self._values(passed, n)
        parts = ({column: extra[i] for column, extra in extras.items()} for i in range(n))
        return [self._judge(value, part) for value, part in zip(values, parts, strict=True)]

    def _values(self, passed: dict[str, object], n: int) -> list[object]:
        """What the function gives, n values; TrimtabError in place of anything that it raises but Ctrl-C."""
        try:
            values = self.function(**passed)
            values = wait_for(values) if inspect.isawaitable(values) else values
            return listed(values, n, f"reward function {self.name}")  # a generator runs here
        except (TrimtabError, KeyboardInterrupt):
            raise
        except SystemExit as error:
            left = f"left the program (sys.exit({'' if error.code is None else short(error.code)}))"
            raise TrimtabError(
                f"reward function {self.name}: {left}{self._line(error)}. Give None where there is no score."
            ) from error
        except BaseException as error:
            raise TrimtabError(f"reward function {self.name}: {error_words(error)}{self._line(error)}") from error

    def _line(self, error: BaseException) -> str:
        """Where in the function's own file it happened."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        file = code.co_filename if code is not None else None
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        return f" ({Path(file).name}, line {lines[-1]})" if file and lines else ""

    def _log_metric(self, name: str, value: float) -> None:
        what = f"reward function {self.name}: log_metric({short(name)!r})"
        if not isinstance(name, str):
            raise TrimtabError(f"{what}: a metric's name is text, not {type(name).__name__}.")
        number = plain(value)
        if isinstance(number, str | list | dict):
            raise TrimtabError(f"{what}: gave {short(value)}, which is not a number.")
        if number is None:
            warn(f"{what}: gave {short(value)}, which is left out of the mean.")
        else:
            self._metrics.setdefault(name, []).append(float(number))

    def _judge(self, value: object, breakdown: JsonObject) -> Scored:
        return scored(self.name, value, breakdown)


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
        text = f"{target.__module__}.{target.__qualname__}{_code_text(getattr(target, '__code__', None))}"
    if str(target.__module__).startswith(OWN_MODULE):
        try:
            text += inspect.getsource(sys.modules[target.__module__])
        except (OSError, TypeError):  # gone since it was read
            raise TrimtabError(f"reward function {target.__qualname__}: its file is gone.") from None
    cells = [_cell(cell) for cell in getattr(plain, "__closure__", None) or ()]
    kept = [getattr(plain, "__defaults__", None), getattr(plain, "__kwdefaults__", None), *cells]
    kept += [getattr(function, "args", None), getattr(function, "keywords", None)]
    kept += [] if target is plain else sorted(getattr(plain, "__dict__", {}).items())
    text += "\n".join(repr(value) if _is_plain(value) else type(value).__name__ for value in kept)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _code_text(code: CodeType | None) -> str:
    """What a function without a source does; "" of one written in C."""
    if code is None:
        return ""
    inner = [_code_text(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, inner))


def _cell(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_plain(value: object) -> bool:
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
    value: object = module
    if name == "<lambda>" or not all(name.split(".")):
        raise TrimtabError(f"reward function {spec!r}: {name!r} is no name of a function.")
    for part in name.split("."):
        if not hasattr(value, part):
            public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise TrimtabError(
                f"reward function {spec}: {where} has no {name!r}. It has: {', '.join(public) or 'no function'}."
            )
        value = getattr(value, part)
    return checked_function(spec, name, value)


def checked_function(spec: str, name: str, value: object) -> Function:
    """The value as a function; TrimtabError for a class, and for what cannot be called."""
    if inspect.isclass(value):
        raise TrimtabError(
            f"reward function {spec}: {name!r} is a class. Name a function, or an object of the class that the "
            f"file makes and that can be called ({name.lower()} = {name}())."
        )
    if not callable(value):
        raise TrimtabError(f"reward function {spec}: {name!r} is a {type(value).__name__}, not a function.")
    return value


def _load_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise TrimtabError(f"reward function {spec}: no such file as {path}.")
    unique = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    name = f"{OWN_MODULE}{path.stem}_{unique}"
    file_spec = importlib.util.spec_from_file_location(name, path)
    assert file_spec is not None
    assert file_spec.loader is not None
    module = importlib.util.module_from_spec(file_spec)
    sys.modules[name] = module  # dataclasses and pickle look a module up by its name
    try:
        with undisturbed(name):
            file_spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.modules.pop(name, None)
        raise TrimtabError(f"reward function {spec}: {path} fails: {error_words(error)}") from error
    return module


def _load_module(spec: str, name: str) -> ModuleType:
    try:
        with undisturbed(name):
            return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        file = Path(*name.split(".")).with_suffix(".py")
        hint = f" There is a file {file}: name it as {file}:{spec.rpartition(':')[2]}." if file.is_file() else ""
        raise TrimtabError(
            f"reward function {spec}: importing {name} fails: {error_words(error)}.{hint}"
        ) from error
