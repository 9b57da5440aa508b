"""Trimtab from Python: what its commands do, called from a notebook or a program.

Every function takes settings by keyword, nested (`lora={"rank": 16}`) or dotted in `settings`
(`{"lora.rank": 16}`), with the names that `--set` has. What is wrong is a TrimtabError with the command's words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trimtab.catalogue import CATALOGUE
from trimtab.command_settings import read_stage_settings
from trimtab.data.parsing import nearest, parse
from trimtab.dead_ends import as_trimtab_errors
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.files import read_json
from trimtab.json_types import JsonObject, JsonValue
from trimtab.methods.table import METHODS
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.models.reward_model import RewardModel, load_reward_model
from trimtab.recipe import Recipe
from trimtab.recipe_files import read_recipe
from trimtab.rewards.settings import reward_given
from trimtab.rewards.settings_base import RewardSettings
from trimtab.study.asked import check_stage
from trimtab.study.evaluate import EvaluationRequest, RowRange, evaluate_models, evaluate_to_folder
from trimtab.study.run import run_alone
from trimtab.study.run import run_study as run_whole_study
from trimtab.training.changed import accepting_changed_reward
from trimtab.training.metrics import read_metrics

if TYPE_CHECKING:
    from pandas import DataFrame

Source = str | os.PathLike[str]
"""A folder, a file or a hub name."""
Data = Source | Mapping[str, JsonValue]
"""Rows: a source, or a recipe's `data` with its settings, in which `train` names the rows."""
RewardLike = str | os.PathLike[str] | Mapping[str, JsonValue] | RewardSettings | Callable[..., object]
"""A short name as of --reward, settings with a kind, or a Python function with TRL's signature."""
RESERVED = ("chosen", "opponent")
"""Names that stand for something else in results."""


@dataclass(frozen=True)
class Trained:
    """A finished stage.

    folder: of the best model, a plain Hugging Face folder; a path wherever a model is asked for. method: what
    trained it, by its name in a recipe.
    """

    folder: Path
    method: str

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def done(self) -> JsonObject:
        """What the stage wrote at its end: steps, best step and metric, seconds, memory, warnings."""
        return read_json(self.folder.parent / "done.json", "Train it again.")

    @property
    def metrics(self) -> DataFrame:
        """A pandas row for each logged step, validation under eval_…; of a method in rounds the last round's."""
        import pandas

        return pandas.DataFrame(read_metrics(self.folder.parent / "metrics.jsonl"))

    def load(self) -> Policy | RewardModel:
        """The model, in float32."""
        if METHODS[self.method].method.role == "policy":
            return load_policy(str(self))
        return load_reward_model(str(self), new_head=False)

    def __str__(self) -> str:
        return str(self.folder)


def train(
    method: str,
    *,
    model: Source,
    data: Data,
    out: Source,
    validation: Source | None = None,
    tokenizer: Source | None = None,
    limit: int | None = None,
    rewards: RewardLike | Sequence[RewardLike] = (),
    accept_changed_reward: bool = False,
    settings: Mapping[str, JsonValue] | None = None,
    **more: object,
) -> Trained:
    """Trains one method, as `trimtab dpo` and the like do; what `out` has of the same inputs is kept, and goes on.

    method: sft, dpo, reward, online_dpo, grpo, … rewards: of a method that a reward drives; a function is one.
    limit: at most so many rows of each split. settings, more: the method's.
    """
    with as_trimtab_errors(), accepting_changed_reward(accept_changed_reward):
        method = _known_method(method)
        rows, value = _rows(data, nested(settings, more))
        if limit is not None:
            value = _merged(value, {"data": {"limit": limit}})
        scorers = [reward_given(reward, "rewards") for reward in _listed(rewards)]
        training, places = read_stage_settings(method, rows, _text(validation), value, scorers)
        check_stage(os.fspath(model), training, places)
        best = run_alone(method, os.fspath(model), training, places, Path(out).expanduser(), _text(tokenizer))
        return Trained(best, method)


def evaluate(
    *,
    model: Source,
    data: Data,
    out: Source | None = None,
    opponent: Source | None = None,
    judge: RewardLike | None = None,
    tokenizer: Source | None = None,
    rows: int | None = None,
    skip: int = 0,
    settings: Mapping[str, JsonValue] | None = None,
    **more: object,
) -> Results:
    """Evaluates one model, as `trimtab evaluate` does.

    out: where answers, scores and the report are kept, so that another call with it goes on; None: nowhere. judge,
    opponent: for win rates, both or none. rows, skip: which of the data's rows. settings, more: of the evaluation.
    """
    return _evaluate({"model": model}, data, out, opponent, judge, tokenizer, RowRange(rows, skip), settings, more)


def compare(
    models: Mapping[str, Source] | Iterable[Source],
    *,
    data: Data,
    out: Source | None = None,
    opponent: Source | None = None,
    judge: RewardLike | None = None,
    tokenizer: Source | None = None,
    rows: int | None = None,
    skip: int = 0,
    settings: Mapping[str, JsonValue] | None = None,
    **more: object,
) -> Results:
    """Evaluates several models on the same rows, and compares each pair over the same prompts, as a study does.

    models: by what each is called; without names by their folders. The rest as in `evaluate`.
    """
    with as_trimtab_errors():
        named = _named(models)
    return _evaluate(named, data, out, opponent, judge, tokenizer, RowRange(rows, skip), settings, more)


def load_recipe(
    recipe: Source | Mapping[str, JsonValue], settings: Mapping[str, JsonValue] | None = None, **more: object
) -> Recipe:
    """A study's recipe: a file, the name of one that comes with trimtab (quickstart), or its content.

    settings, more: on top of what it says.
    """
    with as_trimtab_errors():
        if isinstance(recipe, Mapping):
            return parse(Recipe, _merged(nested(recipe, {}), nested(settings, more)), "recipe")
        path, value = read_recipe(Path(recipe))
        return parse(Recipe, _merged(value, nested(settings, more)), str(path))


def run_study(
    recipe: Recipe | Source | Mapping[str, JsonValue],
    out: Source | None = None,
    seeds: Iterable[int] | int | None = None,
    *,
    accept_changed_reward: bool = False,
    settings: Mapping[str, JsonValue] | None = None,
    **more: object,
) -> Results:
    """Runs a study, as `trimtab study` does, or what is missing of it; returns what its report shows.

    out: its folder; None: runs/NAME. seeds: training seeds to pool. settings, more: on top of the recipe's.
    """
    with as_trimtab_errors(), accepting_changed_reward(accept_changed_reward):
        if not isinstance(recipe, Recipe):
            recipe = load_recipe(recipe, settings, **more)
        elif settings or more:
            recipe = load_recipe(recipe.model_dump(exclude_unset=True), settings, **more)
        folder = Path(out).expanduser() if out is not None else Path("runs") / recipe.name
        seed_list = [seeds] if isinstance(seeds, int) else None if seeds is None else list(seeds)
        return run_whole_study(recipe, folder, seed_list)


# ---- what a program may give, as the command takes it


def nested(settings: Mapping[str, JsonValue] | None, more: Mapping[str, object]) -> JsonObject:
    """Settings by keyword and in a dictionary, dotted names taken apart; paths are text."""
    value: JsonObject = {}
    for source in (settings or {}, more):
        for name, setting in source.items():
            *path, last = str(name).split(".")
            whole: JsonObject = {last: _plain(setting)}
            for part in reversed(path):
                whole = {part: whole}
            value = _merged(value, whole)
    return value


def _merged(under: Mapping[str, JsonValue], over: Mapping[str, JsonValue]) -> JsonObject:
    """Both, where `over` wins; dictionaries that are in both are merged likewise."""
    value = dict(under)
    for name, setting in over.items():
        below = value.get(name)
        both = isinstance(setting, dict) and isinstance(below, dict)
        value[name] = _merged(below or {}, setting) if both else setting
    return value


def _plain(value: object) -> JsonValue:
    if isinstance(value, Mapping):
        return nested(value, {})
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _known_method(name: str) -> str:
    trainable = [entry.name for entry in CATALOGUE.values() if entry.summary]
    method = name.replace("-", "_")
    if method not in trainable:
        raise TrimtabError(f"method {name!r}: no such method.{nearest(method, trainable)}")
    return method


def _text(source: Source | None) -> str | None:
    return None if source is None else os.fspath(source)


def _rows(data: Data, value: JsonObject) -> tuple[str, JsonObject]:
    """Where the rows are, and the settings with what `data` says beside that."""
    if not isinstance(data, Mapping):
        return os.fspath(data), value
    inside = nested(data, {})
    if not isinstance(inside.get("train"), str):
        raise TrimtabError("data: name the file, folder or hub name of its rows as 'train'.")
    return inside["train"], _merged({"data": inside}, value)


def _listed(rewards: RewardLike | Sequence[RewardLike]) -> list[RewardLike]:
    return list(rewards) if isinstance(rewards, list | tuple) else [rewards]  # type: ignore[list-item]


def _named(models: Mapping[str, Source] | Iterable[Source]) -> dict[str, Source]:
    """Models by name; those without one are called as their folder, or the folder above best/ and last/."""
    if isinstance(models, str | os.PathLike):
        models = [models]
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        sources = list(models)
        names = [_name_of(os.fspath(source)) for source in sources]
        if len(set(names)) < len(names):
            raise TrimtabError(f"models: {', '.join(names)}: name each, as in {{'a': …, 'b': …}}.")
        named = dict(zip(names, sources, strict=True))
    if not named:
        raise TrimtabError("models: name at least one.")
    for name in named:
        if name in RESERVED or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(name)):
            raise TrimtabError(
                f"models: {name!r} is no name for a model: letters, digits, '.', '_' and '-', and neither "
                f"{' nor '.join(RESERVED)}."
            )
    return named


def _name_of(source: str) -> str:
    *above, last = re.split(r"[/:]", source.rstrip("/"))
    return above[-1] if last in ("best", "last") and above and above[-1] else last


def _evaluate(
    models: Mapping[str, Source],
    data: Data,
    out: Source | None,
    opponent: Source | None,
    judge: RewardLike | None,
    tokenizer: Source | None,
    part: RowRange,
    settings: Mapping[str, JsonValue] | None,
    more: Mapping[str, object],
) -> Results:
    with as_trimtab_errors():
        scorer = None if judge is None else reward_given(judge, "judge")
        rows, value = _rows(data, nested(settings, more))
        places = {name: os.fspath(model) for name, model in models.items()}
        folder = None if out is None else Path(out).expanduser()
        request = EvaluationRequest(
            places, rows, value, _text(opponent), scorer, _text(tokenizer), part,
            name="evaluation" if folder is None else folder.name,
        )  # fmt: skip
        if folder is not None:
            return evaluate_to_folder(request, folder)
        if scorer is not None and scorer.is_remote:
            raise TrimtabError("judge: give a folder as out: it keeps the scores, so that none is asked for twice.")
        with TemporaryDirectory(prefix="trimtab-") as passing:
            return evaluate_models(request, Path(passing))
