"""The whole experiment: data → methods, for each training seed → evaluation against the opponent → report.

Everything that is done is on disk; stopping anywhere and running the same again finishes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab.data.chat import ChatFormat
from trimtab.data.splits import DataSettings, Splits, count_shared, split_records
from trimtab.errors import TrimtabError
from trimtab.evaluation.judge_probes import probe_judge, rows_of
from trimtab.evaluation.results import Results
from trimtab.files import make_folder, write_file
from trimtab.folder_lock import holding
from trimtab.methods.on_policy_settings import OnPolicySettings
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.methods.rounds import run_rounds
from trimtab.methods.table import METHODS
from trimtab.notices import Warnings, collected, speaking_of
from trimtab.recipe import Recipe
from trimtab.rewards.settings import make_reward
from trimtab.rewards.settings_base import RewardSettings
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.prompts import Split
from trimtab.study.collect import collect_results, opponent_name
from trimtab.study.export import write_cards
from trimtab.study.folder import open_study_folder
from trimtab.study.needs import check_needs, check_scored_rows, check_scorers
from trimtab.study.read_results import read_results
from trimtab.study.second_judges import ask_second_judges
from trimtab.study.seeds import recipe_of_seed, seeds_of
from trimtab.study.sources import (
    SCORES,
    make_judge,
    named_models,
    resolve_model,
    rewards_by_name,
    with_model_places,
)
from trimtab.study.training_seed import (
    BASE,
    OPPONENT,
    TrainingSeed,
    asked_first,
    evaluate_shared,
    folder_of_shared,
    shared_models,
)
from trimtab.study.workers import check_gpus, check_ray, work_ahead
from trimtab.tasks.ask import check as check_tasks
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import run_stage, split_once


def sandbox_data(recipe: Recipe, out: Path) -> DataSettings:
    """Writes the sandbox's rows, and returns the settings that read them back."""
    settings = recipe.sandbox
    assert settings is not None
    sizes: dict[Split, int] = {
        "train": settings.train_rows,
        "validation": settings.validation_rows,
        "test": settings.test_rows,
    }
    for split, rows in sizes.items():
        path = out / "data" / f"{split}.jsonl"
        if not path.is_file():
            make_folder(path.parent)
            pairs = preference_data(split, rows, settings.seed, with_gold=settings.scores)
            write_file(path, lambda aside, pairs=pairs: write_preferences(pairs, aside))  # type: ignore[misc]
    train, validation, test = (str(out / "data" / f"{split}.jsonl") for split in sizes)
    return DataSettings(train=train, validation=validation, test=test, max_length=settings.max_length)


def run_study(
    recipe: Recipe,
    out: Path,
    seeds: Sequence[int] | None = None,
    workers: int | None = 1,
    gpus: Sequence[str] = (),
    ray: str | None = None,
) -> Results:
    """Runs what is missing of the study in `out`, and writes its results and report.

    seeds: training seeds, each in its folder seed-S, pooled in the results; None: the folder's, and of a new one
    the recipe's. Seeds belong to the folder: those that it has stay in its results, new ones are added. Data,
    decoding, base and opponent are the same for all. workers: processes that share the stages and evaluations, and
    this process's threads; None: as many as are worth it, which takes a program that may be started anew
    (multiprocessing's spawn). gpus: those that these processes are pinned to, in turn, one each where workers is
    None. ray: the address of a Ray cluster, whose machines do it instead.
    """
    check_gpus(gpus)
    if ray is not None:
        check_ray()
    with holding(out), collected() as run_warnings:
        return _run_study(recipe, out, seeds, workers, gpus, ray, run_warnings)


@dataclass(frozen=True)
class StudyRows:
    """A study's rows, without the test rows that a template refuses. sampled: those of their own of methods that a
    reward drives; of_reward: those of the reward model. chat: the format that lengths are counted with."""

    data: DataSettings
    splits: Splits
    sampled: tuple[DataSettings, Splits] | None
    of_reward: tuple[DataSettings, Splits] | None
    chat: ChatFormat


def study_rows(recipe: Recipe, out: Path) -> StudyRows:
    """Reads the rows. TrimtabError where there are none to evaluate on, or something else that the study needs is
    missing."""
    data = recipe.data or sandbox_data(recipe, out)
    if recipe.limit is not None:
        data = data.model_copy(update={"limit": recipe.limit})
    splits = split_once(data, out / "cache")
    sampled = _prompts_of(recipe, splits, out)
    if not splits.test:
        splits.test, splits.tested_on_validation = splits.validation, True
    if not splits.test:
        raise TrimtabError("no rows to evaluate on: give data.test (or test_rows, test_share), or validation.")
    of_reward = _rows_of_reward(recipe, splits, out)
    own = {"prompts": sampled, "reward_data": of_reward}
    chat = check_needs(recipe, data, splits, {name: rows[1] for name, rows in own.items() if rows is not None})
    return StudyRows(data, splits, sampled, of_reward, chat)


def _run_study(
    recipe: Recipe,
    out: Path,
    seeds: Sequence[int] | None,
    workers: int | None,
    gpus: Sequence[str],
    ray: str | None,
    run_warnings: Warnings,
) -> Results:
    training_seeds = seeds_of(out, recipe.seed, seeds)
    open_study_folder(recipe, out, training_seeds)
    rows = study_rows(recipe, out)
    data, splits, chat = rows.data, rows.splits, rows.chat
    judge = make_judge(recipe.judge, out)
    trained = [
        TrainingSeed(
            recipe_of_seed(recipe, seed), data, splits, out, judge, rows.sampled, rows.of_reward, training_seeds[0]
        )
        for seed in training_seeds
    ]
    if (tasks := trained[0].tasks) is not None:
        asked = {name: resolve_model(source) for name, source in ((OPPONENT, recipe.opponent),) if source}
        check_tasks(tasks, out, asked, recipe.evaluation)
    with work_ahead(trained, workers, gpus, ray):
        if (first := asked_first(recipe)) is not None:
            evaluate_shared(trained, first)
        runs = []
        for seed in trained:
            with speaking_of(f"seed {seed.recipe.seed}") if len(trained) > 1 else nullcontext():
                runs.append(seed.run())
        fixed = {name: evaluate_shared(trained, name) for name in shared_models(recipe)}
    answered = {folder_of_shared(trained, name): outputs for name, outputs in fixed.items()}
    for run in runs:
        answered |= {run.folder / "evaluation" / outputs.name: outputs for outputs in run.outputs}
    ask_second_judges(trained[0].second_judges(), splits.test, answered)
    opponent = fixed.pop(OPPONENT, None)
    if recipe.opponent is not None:
        if opponent is None:
            fixed[BASE].is_opponent = True
        opponent = replace(opponent or fixed[BASE], name=opponent_name(recipe.opponent))
    probes = []
    if judge is not None and opponent is not None:
        methods = [*fixed.values(), *runs[0].outputs]
        probes = probe_judge(judge, methods, opponent, rows_of(splits.test), recipe.evaluation.judge_probes, out)
    results = collect_results(
        recipe, chat, splits, runs, list(fixed.values()), opponent, data, named_models(recipe), run_warnings.lines,
        probes,
    )  # fmt: skip
    results.write(out / "results.json")
    _write_report(results, out)
    for run in runs:
        write_cards(results, run.stages())
    return results


def _prompts_of(recipe: Recipe, splits: Splits, out: Path) -> tuple[DataSettings, Splits] | None:
    """The rows of their own of methods that a reward drives. Their test rows are the study's, where data has none;
    training rows whose prompt is tested on are counted with data's."""
    if recipe.prompts is None:
        return None
    data = recipe.prompts.model_copy(update={"limit": recipe.limit} if recipe.limit is not None else {})
    sampled = split_once(data, out / "cache")
    if sampled.test:
        splits.test = sampled.test
        splits.shared_prompts += sampled.shared_prompts + count_shared(splits.train, splits.test)
    else:
        splits.shared_prompts += sampled.shared_prompts + count_shared(sampled.train, splits.test)
    splits.unreadable += sampled.unreadable
    return data, sampled


def _rows_of_reward(recipe: Recipe, splits: Splits, out: Path) -> tuple[DataSettings, Splits] | None:
    """The rows of its own of the reward model; those whose prompt is tested on are counted with data's."""
    if recipe.reward_data is None:
        return None
    data = recipe.reward_data.model_copy(update={"limit": recipe.limit} if recipe.limit is not None else {})
    own = split_once(data, out / "cache")
    splits.shared_prompts += count_shared(own.train, splits.test)
    splits.unreadable += own.unreadable
    return data, own


def run_alone(
    method: str, model: str, settings: TrainingSettings, data: DataSettings, out: Path, tokenizer: str | None
) -> Path:
    """`trimtab sft | dpo | reward | online-dpo | grpo | ppo`: trains one method by itself.

    Returns its model's folder.
    """
    with holding(out):
        return _run_alone(method, model, settings, data, out, tokenizer)


def _run_alone(
    method: str, model: str, settings: TrainingSettings, data: DataSettings, out: Path, tokenizer: str | None
) -> Path:
    settings, tokenizer = with_model_places(settings), resolve_model(tokenizer) if tokenizer else None
    if isinstance(settings, OnlineDPOSettings):
        _check_rows(settings.rewards, data)
        start, cache, scores = resolve_model(model), out / "reference", out / SCORES.name
        return run_rounds(settings, data, None, start, out, cache, rewards_by_name(), scores, tokenizer)
    reward = None
    if isinstance(settings, OnPolicySettings):
        _check_rows(settings.rewards, data)
        reward = make_reward(settings.rewards, rewards_by_name(), out / SCORES.name)
    return run_stage(
        method, METHODS[method].method, settings, data, resolve_model(model), out, tokenizer, reward=reward
    )


def _check_rows(rewards: Sequence[RewardSettings], data: DataSettings) -> None:
    """TrimtabError where a reward that looks at all rows can't score these."""
    if any(reward.needs_sandbox or reward.reads_every_row for reward in rewards):
        splits = split_records(data)
        check_scorers(rewards, splits.train, "--reward")
        for records in (splits.train, splits.validation):
            check_scored_rows(rewards, records, "completion_ids")


def _write_report(results: Results, folder: Path) -> None:
    from trimtab.report.render import write_report  # loads matplotlib, which training does without

    write_report(results, folder)


def report_only(folder: Path) -> Path:
    """`trimtab report`: writes everything that is shown anew from results.json, and returns the page."""
    results = read_results(folder)
    with holding(folder):
        _write_report(results, folder)
    return folder / "report.html"
