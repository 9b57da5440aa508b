"""The whole experiment: data → methods, for each training seed → evaluation against the opponent → report.

Everything that is done is on disk; stopping anywhere and running the same again finishes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from trimtab.catalogue import ordered_methods
from trimtab.data.adapters import home
from trimtab.data.answered import answered
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.day import day_of_runs
from trimtab.data.parsing import parse
from trimtab.data.records import Record, columns_of
from trimtab.data.settings import NAMES_A_MODEL
from trimtab.data.split_groups import check_completions
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.errors import TrimtabError, first_line
from trimtab.evaluation.measure import measure
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.results import Results
from trimtab.evaluation.settings import EvaluationSettings, EvaluationTask
from trimtab.files import make_folder, read_json, write_file
from trimtab.folder_lock import holding
from trimtab.methods.on_policy import OnPolicySettings
from trimtab.methods.online_dpo import OnlineDPOSettings
from trimtab.methods.rounds import rewards_of_rounds, run_round, run_rounds
from trimtab.methods.table import METHODS
from trimtab.models.kinds import check_model_source, positions_of
from trimtab.models.lora import hash_model
from trimtab.notices import Warnings, collected, say, speaking_of
from trimtab.recipe import Recipe
from trimtab.report.render import write_report
from trimtab.rewards.base import Reward
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.function import ALWAYS_GIVEN, FunctionSettings
from trimtab.rewards.settings import check_rewards, make_reward
from trimtab.rewards.settings_base import RewardSettings
from trimtab.rollout import vllm
from trimtab.rollout.sampler import check_prompts
from trimtab.sandbox.annotator import write_preferences
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.judge import GoldJudge
from trimtab.sandbox.starters import starter
from trimtab.study.collect import SeedRun, collect_results, opponent_name
from trimtab.study.export import write_cards
from trimtab.study.folder import open_study_folder
from trimtab.study.stages import last_stages, stages_of
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage import run_stage

Stages = TypeVar("Stages", bound=TrainingSettings)
SCORES = Path("cache") / "scores.sqlite"
"""Of remote rewards, in a study's folder or an evaluation's."""


def resolve_model(name: str) -> str:
    """sandbox:base and sandbox:instruct are folders of the package, ~ the user's; others stand for themselves."""
    if not name.startswith("sandbox:"):
        return home(name)
    folder = starter(name.removeprefix("sandbox:"))
    if not folder.is_dir():
        raise TrimtabError(f"model {name}: the sandbox has sandbox:base and sandbox:instruct.")
    return str(folder)


def with_models_found(settings: Stages) -> Stages:
    """The settings with the places of the models that they name, such as a teacher."""
    named = {
        name: resolve_model(source)
        for name, field in type(settings).model_fields.items()
        if NAMES_A_MODEL in field.metadata and (source := getattr(settings, name)) is not None
    }
    return settings.model_copy(update=named) if named else settings


def make_judge(settings: RewardSettings | None, out: Path) -> Reward | None:
    """The judge of a study, or none. TrimtabError where it cannot be made."""
    return make_reward([settings], known_rewards(), out / SCORES) if settings else None


def check_opponent(source: str, settings: EvaluationSettings) -> None:
    """TrimtabError where the opponent is not there: it comes last, and is asked for before all training."""
    check_model_source(source, settings, "policy")
    load_tokenizer(source, settings)


def sandbox_data(recipe: Recipe, out: Path) -> DataSettings:
    """Writes the sandbox's rows, and returns the settings that read them back."""
    settings = recipe.sandbox
    assert settings is not None
    sizes: dict[Any, int] = {
        "train": settings.train_rows,
        "validation": settings.validation_rows,
        "test": settings.test_rows,
    }
    for split, rows in sizes.items():
        path = out / "data" / f"{split}.jsonl"
        if not path.is_file():
            make_folder(path.parent)
            made = preference_data(split, rows, settings.seed, with_gold=settings.scores)
            write_file(path, lambda aside, made=made: write_preferences(made, aside))  # type: ignore[misc]
    train, validation, test = (str(out / "data" / f"{split}.jsonl") for split in sizes)
    return DataSettings(train=train, validation=validation, test=test, max_length=settings.max_length)


def run_study(recipe: Recipe, out: Path, seeds: Sequence[int] | None = None) -> Results:
    """Runs what is missing of the study in `out`, and writes its results and report.

    seeds: training seeds, each in its folder seed-S, pooled in the results; None: the folder's, and of a new one
    the recipe's. Seeds belong to the folder: those that it has stay in its results, new ones are added. Data,
    decoding, base and opponent are the same for all.
    """
    with holding(out), collected() as told:
        return _run_study(recipe, out, seeds, told)


def _run_study(recipe: Recipe, out: Path, seeds: Sequence[int] | None, told: Warnings) -> Results:
    wanted = seeds_of(out, recipe.seed, seeds)
    open_study_folder(recipe, out, wanted)
    data = recipe.data or sandbox_data(recipe, out)
    if recipe.limit is not None:
        data = data.model_copy(update={"limit": recipe.limit})
    splits = split_records(data)
    if not splits.test:
        splits.test, splits.tested_on_validation = splits.validation, True
    if not splits.test:
        raise TrimtabError("no rows to evaluate on: give data.test (or test_rows, test_share), or validation.")
    chat = _check_needs(recipe, data, splits)
    judge = make_judge(recipe.judge, out)
    runs = []
    for seed in wanted:
        with speaking_of(f"seed {seed}") if len(wanted) > 1 else nullcontext():
            runs.append(run_seed(recipe_of_seed(recipe, seed), data, splits, out, judge))

    def shared(name: str, model: str) -> MethodOutputs:
        places = [out / f"seed-{seed}" for seed in wanted]
        place = next((p for p in places if (p / "evaluation" / name).is_dir()), places[0])
        return evaluate_one(name, model, recipe, data, splits, place, judge)

    fixed = [shared("base", runs[0].models["base"])] if "base" in recipe.methods else []
    opponent = None
    if recipe.opponent:
        opponent = shared("opponent", resolve_model(recipe.opponent))
        opponent.name = opponent_name(recipe.opponent)
    results = collect_results(recipe, chat, splits, runs, fixed, opponent, data, named_models(recipe), told.lines)
    results.write(out / "results.json")
    write_report(results, out)
    for run in runs:
        write_cards(results, run.stages())
    return results


def _check_needs(recipe: Recipe, data: DataSettings, splits: Splits) -> ChatFormat:
    """TrimtabError where something is not there that only a later stage or the evaluation asks for: told before
    hours of training, not after. Leaves the test rows out that a template refuses. Returns the format that
    evaluation counts lengths with."""
    if recipe.opponent:
        check_opponent(resolve_model(recipe.opponent), recipe.evaluation)
    check_model_source(resolve_model(recipe.model), recipe.evaluation, "policy")
    for stage in stages_of(recipe):
        completions = METHODS[stage.method].method.completions_of(stage.settings)
        if not stage.rewards and completions != "first":
            for records in (splits.train, splits.validation):
                check_completions(records, completions)
    check_functions([recipe.judge] if recipe.judge else [], splits.test)
    engines = {recipe.evaluation.decoding.engine}
    for stage in stages_of(recipe):
        check_rewards(stage.rewards)
        for records in (splits.train, splits.validation) if stage.rewards else ():
            check_functions(stage.rewards, records, "completion_ids")
        if (sampling := getattr(stage.settings, "sampling", None)) is not None:
            engines.add(sampling.engine)
    if recipe.trains_reward and recipe.reward_model:
        check_model_source(
            resolve_model(recipe.reward_model), recipe.settings_of("reward"), "start of a reward model"
        )
    if "vllm" in engines:
        vllm.check_installed()
    model = resolve_model(recipe.model)
    sources = [recipe.tokenizer or recipe.model, *([recipe.opponent] if recipe.opponent else [])]
    chats = [ChatFormat(load_tokenizer(resolve_model(one), recipe.evaluation), data) for one in sources]
    for stage in stages_of(recipe):
        METHODS[stage.method].method.check_needs(with_models_found(stage.settings), chats[0])
    try:
        found = answered(splits.test, chats)
        check_prompts(
            found.prompts,
            recipe.evaluation.decoding.max_new_tokens,
            positions_of(model, recipe.evaluation),
            origins=[record.origin for record in found.records],
        )
    except TrimtabError as error:
        raise TrimtabError(f"test rows: {error}") from None
    found.tell("test rows")
    splits.test, splits.left_out = found.records, found.dropped
    return chats[0]


def named_models(recipe: Recipe) -> dict[str, tuple[str, str] | None]:
    """By role: the name and the place of each model that the recipe names."""
    judge = recipe.judge.local_model if recipe.judge else None
    given = {
        "model": recipe.model,
        "opponent": recipe.opponent,
        "reward model's start": recipe.reward_model,
        "judge": judge,
    }
    return {role: (name, resolve_model(name)) if name else None for role, name in given.items()}


def run_seed(recipe: Recipe, data: DataSettings, splits: Splits, out: Path, judge: Reward | None) -> SeedRun:
    """Trains and evaluates every method with the recipe's seed; what is done already is kept."""
    folder = out / f"seed-{recipe.seed}"
    models = train_methods(recipe, data, splits, folder, out / "cache", judge)
    outputs = [
        evaluate_one(name, model, recipe, data, splits, folder, judge)
        for name, model in models.items()
        if name != "base"
    ]
    return SeedRun(recipe.seed, folder, models, outputs)


def seeds_of(out: Path, own: int, seeds: Sequence[int] | None) -> list[int]:
    """The training seeds of a study's folder: those that it has, then those asked for now; what differs from what
    was asked for is said. own: the recipe's, for a folder without any."""
    if seeds is not None and (not seeds or min(seeds) < 0):
        raise TrimtabError("--seeds: name at least one training seed, such as 0,1,2; none is negative.")
    begun = {int(p.parents[2].name.removeprefix("seed-")) for p in out.glob("seed-*/*/*/metrics.jsonl")}
    if not begun:
        return [own] if seeds is None else list(dict.fromkeys(seeds))
    file = out / "environment.json"
    last = read_json(file, f"Remove {file}.").get("seeds", []) if file.is_file() else []
    # Of a seed that has not begun nothing is lost: another --seeds may leave it out.
    kept = [seed for seed in last if seeds is None or seed in begun]
    kept += sorted(begun - set(kept))
    wanted = list(dict.fromkeys([*kept, *(seeds or [])]))
    if seeds is not None and (more := [seed for seed in kept if seed not in seeds]):
        say(f"{out}: holds seed {_numbers(more)} too; the results are of all its seeds, {_numbers(wanted)}.")
    elif seeds is None and wanted != [own]:
        say(f"{out}: its training seeds are {_numbers(wanted)}; the results are of all of them.")
    return wanted


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def recipe_of_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe as if it said `seed`: stages follow, but for those that set a seed other than the recipe's."""
    if seed == recipe.seed:
        return recipe
    value = recipe.model_dump(exclude_unset=True) | {"seed": seed}
    for stage in map(value.get, METHODS):
        # Validation gave every stage that set none the recipe's.
        if stage is not None and stage.get("seed") == recipe.seed:
            stage["seed"] = seed
    return parse(Recipe, value, f"--seeds {seed}")


def train_methods(
    recipe: Recipe, data: DataSettings, splits: Splits, seed: Path, cache: Path, judge: Reward | None
) -> dict[str, str]:
    """Trains every stage that the recipe needs. Returns method → folder of its model, of the recipe's methods.

    What a stage starts from is also its reference. seed: the folder of this training seed.
    """
    base = resolve_model(recipe.model)
    tokenizer = resolve_model(recipe.tokenizer) if recipe.tokenizer else base
    stages, scores = stages_of(recipe), cache / SCORES.name
    models: dict[str, str] = {}
    known = known_rewards()
    reward_of_round: dict[str, Callable[[str], Reward]] = {}
    for stage in stages:
        from_stage = stage.starts_from in models
        model = models[stage.starts_from] if from_stage else resolve_model(stage.model)
        tokens = tokenizer if model == base and not from_stage else None
        method, settings = METHODS[stage.method].method, with_models_found(stage.settings)
        if isinstance(settings, OnlineDPOSettings):
            if stage.method not in reward_of_round:
                reward_of_round[stage.method] = rewards_of_rounds(settings, known, scores)
            reward = reward_of_round[stage.method](model)
            best = run_round(stage.round, settings, data, splits, model, seed / "stages", cache, reward)
        else:
            driven = stage.method in recipe.rewarded
            best = run_stage(
                stage.name, method, settings, data, model, seed / "stages" / stage.name, tokens, cache, splits,
                reward=make_reward(stage.rewards, known, scores) if driven else None,
                judge=judge if driven else None,
                day=day_of_runs(seed.parent),
            )  # fmt: skip
        models[stage.name] = str(best)
        if method.role != "policy":
            known["trained"] = ClassifierReward(str(best), name="proxy", trust=settings)
    last = {"base": base} | {method: models[name] for method, name in last_stages(stages).items()}
    return {name: last[name] for name in ordered_methods(recipe.methods)}


def known_rewards() -> dict[str, Reward]:
    """Rewards that a name stands for."""
    return {"gold": GoldJudge()}


def check_functions(settings: Sequence[RewardSettings], records: Sequence[Record], *more: str) -> None:
    """TrimtabError where a function needs a column that the rows don't have. more: what it is given besides."""
    for one in settings if records else ():
        if isinstance(one, FunctionSettings):
            one.load().check_arguments({*columns_of(records), "prompts", "completions", *more, *ALWAYS_GIVEN})


def check_scorers(settings: Sequence[RewardSettings], records: Sequence[Record], option: str) -> None:
    """TrimtabError for the sandbox's judge on rows that are not the sandbox's."""
    if not records or not any(one.needs_sandbox for one in settings):
        return
    prompts = [record.prompt for record in records[:100]]
    scored = GoldJudge().scored(prompts, [""] * len(prompts))
    if all(one.score is None for one in scored):
        raise TrimtabError(
            f"{option} gold: it knows the sandbox's prompts only, and none of these rows has one. Name a reward "
            f"for data of your own, such as {option} file.py:function or a reward model's folder."
        )


def run_alone(
    method: str, model: str, settings: TrainingSettings, data: DataSettings, out: Path, tokenizer: str | None
) -> Path:
    """`trimtab sft | dpo | reward | online-dpo | grpo | ppo`: one method by itself. Returns its model's folder."""
    with holding(out):
        return _run_alone(method, model, settings, data, out, tokenizer)


def _run_alone(
    method: str, model: str, settings: TrainingSettings, data: DataSettings, out: Path, tokenizer: str | None
) -> Path:
    settings = with_models_found(settings)
    if isinstance(settings, OnlineDPOSettings):
        if any(one.needs_sandbox for one in settings.rewards):
            check_scorers(settings.rewards, split_records(data).train, "--reward")
        start, cache, scores = resolve_model(model), out / "reference", out / SCORES.name
        return run_rounds(settings, data, None, start, out, cache, known_rewards(), scores, tokenizer)
    reward = None
    if isinstance(settings, OnPolicySettings):
        if any(one.needs_sandbox for one in settings.rewards):
            check_scorers(settings.rewards, split_records(data).train, "--reward")
        reward = make_reward(settings.rewards, known_rewards(), out / SCORES.name)
    return run_stage(
        method, METHODS[method].method, settings, data, resolve_model(model), out, tokenizer, reward=reward
    )


def evaluate_one(
    name: str,
    model: str,
    recipe: Recipe,
    data: DataSettings,
    splits: Splits,
    seed: Path,
    judge: Reward | None,
) -> MethodOutputs:
    """Completes, measures and judges one model's answers; what is done already is kept."""
    tokenizer = resolve_model(recipe.tokenizer) if recipe.tokenizer and name == "base" else None
    return measure(EvaluationTask(
        name, model, hash_model(model), splits.test, splits.validation, recipe.evaluation, data, judge,
        seed / "evaluation" / name, tokenizer, say, day_of_runs(seed.parent),
    ))  # fmt: skip


def report_only(folder: Path) -> Path:
    """`trimtab report`: everything that is shown, anew from results.json."""
    file = folder / "results.json"
    if not file.is_file():
        raise TrimtabError(f"{folder}: no results.json in it. Run the study first, or name a study's folder.")
    try:
        results = Results.read(file)
    except ValueError as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
        raise TrimtabError(
            f"{file}: not results that this version can read: {said}. The study's own command writes them anew."
        ) from None
    with holding(folder):
        write_report(results, folder)
    return folder / "report.html"
