"""What a command is asked for, checked before what it needs is loaded, which takes seconds.

Its settings, and whether the rows and models that it names are there. What is in them is looked at later.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.chat.settings import ChatSettings
from trimtab.command_settings import audit_settings, data_settings, stage_settings
from trimtab.data.files import local_rows
from trimtab.data.parsing import apply_overrides, parse
from trimtab.data.settings import Settings
from trimtab.data.splits import DataSettings
from trimtab.data.trust import TrustSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.settings import EvaluationSettings
from trimtab.json_types import JsonObject
from trimtab.models.kinds import check_model_source
from trimtab.progress import Progress
from trimtab.recipe import Recipe, check_recipe
from trimtab.recipe_files import read_recipe
from trimtab.recipe_spaces import read_spaces, refuse_spaces, tuned_method, with_values
from trimtab.rewards.settings import reward_named
from trimtab.rewards.settings_base import RewardSettings
from trimtab.study.sources import resolve_model, with_model_places
from trimtab.tasks.installed import check_installed
from trimtab.tasks.settings import Tasks, TaskSettings
from trimtab.training.schedule import TrainingSettings

if TYPE_CHECKING:
    from trimtab.evaluation.results import Results

SPLITTING = ("validation", "test")
CUTTING = ("max_length", "min_completion_length")
SMALL = 2**20
"""Bytes of a file that is looked into before libraries are loaded."""


def recipe_asked(recipe: Path, limit: int | None, overrides: Sequence[str]) -> Recipe:
    """The checked recipe of `trimtab study` and `plan`. TrimtabError where its file or something in it is wrong, or
    what it names is not there."""
    path, value = read_recipe(recipe, [*overrides, *([f"limit={limit}"] if limit else [])])
    refuse_spaces(value, str(path))
    read = check_recipe(path, value)
    check_named(read)
    return read


def tune_asked(recipe: Path, limit: int | None, overrides: Sequence[str]) -> tuple[Path, JsonObject]:
    """The recipe of `trimtab tune` as it is written, checked with the values of its first trial."""
    if importlib.util.find_spec("optuna") is None:
        raise TrimtabError("tune: it needs Optuna, which is not installed: pip install 'trimtab[tune]'.")
    path, value = read_recipe(recipe, [*overrides, *([f"limit={limit}"] if limit else [])])
    settings, spaces = read_spaces(value, str(path))
    first = check_recipe(path, with_values(value, {space.path: space.start for space in spaces}))
    tuned_method(settings, spaces, list(first.methods), str(path))
    check_named(first)
    return path, value


def check_named(read: Recipe) -> None:
    """TrimtabError where rows, models or rewards that a recipe names are not there."""
    for rows in filter(None, (read.data, read.prompts, read.reward_data)):
        check_rows(rows)
    for model in filter(None, (read.model, read.opponent, read.reward_model)):
        check_model_source(resolve_model(model), read.evaluation)
    check_installed(read.tasks)
    if read.judge is not None:
        _check_rewards([read.judge])
    _check_rewards(read.second_judges)
    for name in read.rewarded:
        _check_rewards(read.rewards_of(name))


def stage_asked(
    method: str, model: str, data: str, validation: str | None, overrides: Sequence[str], rewards: Sequence[str]
) -> tuple[TrainingSettings, DataSettings]:
    """The checked settings of a stage run by itself (see `stage_settings`), whose rows and models are there."""
    settings, rows = stage_settings(method, data, validation, overrides, rewards)
    check_stage(model, settings, rows)
    return settings, rows


def check_stage(model: str, settings: TrainingSettings, rows: DataSettings) -> None:
    """TrimtabError where the rows or a model of a stage run by itself are not there."""
    check_rows(rows)
    check_model_source(resolve_model(model), settings)
    with_model_places(settings)
    _check_rewards(getattr(settings, "rewards", ()))


def generate_asked(
    model: str,
    data: str,
    out: Path,
    tokenizer: str | None,
    overrides: Sequence[str],
    rows: int | None,
    skip: int,
    replaces: bool,
) -> Path:
    """`trimtab generate`: writes the prompts' completions, and returns their file."""
    _check_evaluation("generate", model, data, overrides)
    with loading_libraries():
        from trimtab.study.evaluate import RowRange, generate_only

    return generate_only(model, data, out, tokenizer, overrides, RowRange(rows, skip), replaces)


def evaluate_asked(
    model: str,
    data: str,
    out: Path,
    opponent: str | None,
    judge: str | None,
    tokenizer: str | None,
    overrides: Sequence[str],
    rows: int | None,
    skip: int,
    replaces: bool,
) -> Results:
    """`trimtab evaluate`: evaluates one model on the rows of a data set, against an opponent where one is named."""
    _check_evaluation("evaluate", model, data, overrides, opponent, judge)
    with loading_libraries():
        from trimtab.study.evaluate import RowRange, evaluate_only

    return evaluate_only(model, data, out, opponent, judge, tokenizer, overrides, RowRange(rows, skip), replaces)


def chat_asked(models: Sequence[str], tokenizer: str | None, value: JsonObject, overrides: Sequence[str]) -> None:
    """`trimtab chat`: a conversation with one model, or with several that hear the same. value: settings given by
    options."""
    settings = parse(ChatSettings, apply_overrides(value, overrides), "chat")
    places = [resolve_model(model) for model in models]
    for place in places:
        check_model_source(place, settings)
    with loading_libraries():
        from trimtab.chat.session import converse
        from trimtab.chat.speaker import Speaker

    reader = resolve_model(tokenizer) if tokenizer else None
    converse([Speaker(name, place, settings, reader) for name, place in zip(models, places, strict=True)])


def audit_asked(
    data: str, validation: str | None, tokenizer: str | None, overrides: Sequence[str]
) -> tuple[DataSettings, TrustSettings]:
    """The checked settings of `trimtab audit`, whose rows are there, and the tokenizer where it is a path."""
    rows, trust = audit_settings(data, validation, overrides, has_tokenizer=tokenizer is not None)
    check_rows(rows)
    if tokenizer is not None:
        check_is_there(resolve_model(tokenizer), "tokenizer")
    return rows, trust


def check_init(model: str, data: str, out: Path) -> None:
    """TrimtabError where `trimtab init` has nothing to start from, or its recipe is there already."""
    if out.exists():
        raise TrimtabError(f"{out}: is there already. Choose another --out, or remove it.")
    check_rows(DataSettings(train=data))
    check_model_source(resolve_model(model), TrustSettings())


def report_asked(folder: Path) -> Path:
    """`trimtab report`: writes what is shown anew, and returns the page."""
    check_results(folder)
    with loading_libraries():
        from trimtab.study.run import report_only

    return report_only(folder)


def check_results(folder: Path) -> None:
    """TrimtabError where a folder has no results."""
    if not (folder / "results.json").is_file():
        raise TrimtabError(f"{folder}: no results.json in it. Run the study first, or name a study's folder.")


def export_asked(
    folder: Path, out: Path, method: str | None, seed: int | None, gguf: Sequence[str], measure: bool
) -> Path:
    """`trimtab export`: writes a finished model as a folder of its own, and returns it."""
    check_exported(folder, out)
    with loading_libraries():
        from trimtab.study.export import export_model

    return export_model(folder, out, method, seed, gguf, measure)


def check_exported(folder: Path, out: Path) -> None:
    """TrimtabError where nothing was trained in `folder`, or `out` holds something."""
    stage = folder.parent if folder.name == "best" else folder
    begun = (folder / "recipe.yaml").is_file() and any(path.is_dir() for path in folder.glob("seed-*"))
    if not begun and not (stage / "stage.json").is_file() and not (folder / "stage.json").is_file():
        raise TrimtabError(f"{folder}: neither a stage's folder nor a study's that has begun.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrimtabError(f"{out}: is not empty. Choose another --out.")


def loading_libraries() -> Progress:
    """What is imported inside takes seconds, on a busy machine many: that is shown."""
    return Progress("loading libraries", None)


def _check_evaluation(
    command: str,
    model: str,
    data: str,
    overrides: Sequence[str],
    opponent: str | None = None,
    judge: str | None = None,
) -> None:
    """TrimtabError where a setting of `trimtab generate` or `evaluate` is wrong, or what it names is not there."""
    scorer = reward_named(judge) if judge is not None else None
    value = apply_overrides({}, overrides)
    settings, rows = evaluation_settings(command, data, value)
    check_installed(task_settings(value) if command == "evaluate" else None)
    check_pair(opponent, scorer)
    check_rows(rows)
    for name in filter(None, (model, opponent)):
        check_model_source(resolve_model(name), settings)
    _check_rewards([scorer] if scorer else [])


def check_pair(opponent: str | None, judge: RewardSettings | None) -> None:
    """TrimtabError where one is named without the other."""
    if (judge is None) != (opponent is None):
        raise TrimtabError("--judge and --opponent go together: a win rate needs both.")


def check_is_there(source: str, what: str) -> None:
    """TrimtabError for what is written as a path and is not there. what: the source's role."""
    if source.startswith((".", "/", "~")) and not os.path.exists(os.path.expanduser(source)):
        raise TrimtabError(f"{what} {source}: no such folder. Give a Hugging Face folder or a hub name.")


def check_rows(data: DataSettings) -> None:
    """TrimtabError where a file or folder of rows is not there, is empty or is none that can be read. A hub's data
    set is not asked for."""
    for source in filter(None, (data.train, data.validation, data.test)):
        place = os.path.expanduser(source)
        if os.path.isdir(place) and (not os.access(place, os.R_OK) or os.listdir(place)):
            continue
        found = local_rows(source)
        if found is not None and os.path.getsize(place) < SMALL and next(found[1], None) is None:
            raise TrimtabError(f"data {source}: it holds no rows.")


def _check_rewards(rewards: Sequence[RewardSettings]) -> None:
    """TrimtabError where the folder of a reward that runs a model here is not there."""
    for reward in rewards:
        if reward.local_model:
            trust = reward if isinstance(reward, TrustSettings) else None
            check_model_source(reward.local_model, trust)


def evaluation_settings(command: str, data: str, value: JsonObject) -> tuple[EvaluationSettings, DataSettings]:
    """The checked settings of an evaluation. value: they as they were given, in which `data` holds the data's, and
    `tasks` what `task_settings` reads."""
    value = dict(value)
    if command == "evaluate":
        value.pop("tasks", None)
    set_of_data = value.pop("data", {})
    rows = data_settings(data, None, set_of_data)
    _refuse_ignored(command, set_of_data)
    return parse(EvaluationSettings, value, "--set (evaluation)"), rows


def task_settings(value: JsonObject) -> TaskSettings | None:
    """The standard tasks of an evaluation, of `--set tasks=[…]` or `--set tasks.names=[…]`; None: none."""
    return parse(_WithTasks, {"tasks": value.get("tasks")}, "--set (evaluation)").tasks


class _WithTasks(Settings):
    tasks: Tasks | None = None


def _refuse_ignored(command: str, settings: JsonObject) -> None:
    """Raises TrimtabError for settings of the data that mean something in training only."""
    for name, value in settings.items():
        if name.startswith(SPLITTING) or name == "train_rows":
            count = value if isinstance(value, int) and name.endswith("_rows") else "N"
            raise TrimtabError(
                f"--set data.{name}={value}: trimtab {command} makes no splits, it takes the rows of --data. Of "
                f"these --rows {count} takes the first {count}, and --skip {count} leaves out the first {count}."
            )
        if command == "generate" and name in CUTTING:
            raise TrimtabError(
                f"--set data.{name}={value}: trimtab generate cuts no prompt. --set decoding.max_new_tokens=N "
                "is the most tokens of a completion."
            )
