"""What a study needs and may lack: asked for before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.data.answerable import answerable_rows
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.records import Record
from trimtab.data.split_groups import check_completions
from trimtab.data.splits import DataSettings, Splits
from trimtab.errors import TrimtabError
from trimtab.evaluation.row_columns import cluster_names, difficulties
from trimtab.evaluation.settings import EvaluationSettings
from trimtab.methods.table import METHODS
from trimtab.models.kinds import check_model_source, positions_of
from trimtab.readers.labels import check_labels
from trimtab.recipe import Recipe
from trimtab.rewards.settings import check_rewards
from trimtab.rewards.settings_base import RewardSettings
from trimtab.rollout import vllm
from trimtab.rollout.sampler import check_prompts
from trimtab.rollout.vllm_server import Servers
from trimtab.sandbox.judge import GoldJudge
from trimtab.study.sources import resolve_model, with_model_places
from trimtab.study.stages import stages_of
from trimtab.training.difficulty import check_order


def check_opponent(source: str, settings: EvaluationSettings) -> None:
    """Raises TrimtabError where the opponent is not there: it comes last, and is asked for before all training."""
    check_model_source(source, settings, "policy")
    load_tokenizer(source, settings)


def check_needs(recipe: Recipe, data: DataSettings, splits: Splits, own: Mapping[str, Splits]) -> ChatFormat:
    """Raises TrimtabError where something is missing that only a later stage or the evaluation asks for.

    So that it is told before hours of training, and not after. Leaves the test rows out that a template refuses.
    own: rows of their own, by the setting that names them: prompts, reward_data. Returns the format that evaluation
    counts lengths with.
    """
    if recipe.opponent:
        check_opponent(resolve_model(recipe.opponent), recipe.evaluation)
    check_model_source(resolve_model(recipe.model), recipe.evaluation, "policy")
    for stage in stages_of(recipe):
        completions = METHODS[stage.method].method.completions_of(stage.settings)
        if not stage.rewards and completions != "first":
            read = own.get("reward_data", splits) if stage.method == "reward" else splits
            for records in (read.train, read.validation):
                check_completions(records, completions)
    check_rewards(recipe.second_judges)
    check_scored_rows([*filter(None, [recipe.judge]), *recipe.second_judges], splits.test)
    cluster_names(splits.test, recipe.evaluation.clusters)
    difficulties(splits.test, recipe.evaluation.difficulty)
    check_labels(recipe.evaluation.labels)
    engines = {recipe.evaluation.decoding.engine}
    for stage in stages_of(recipe):
        check_rewards(stage.rewards)
        rows = own.get("prompts", splits) if recipe.samples_prompts(stage.method) else splits
        for records in (rows.train, rows.validation) if stage.rewards else ():
            check_scored_rows(stage.rewards, records, "completion_ids")
        if (sampling := getattr(stage.settings, "sampling", None)) is not None:
            engines.add(sampling.engine)
            if sampling.engine == "vllm-server":
                vllm.check_installed()
                Servers(sampling.server)  # which says what is wrong with them
    if recipe.trains_reward and recipe.reward_model:
        check_model_source(
            resolve_model(recipe.reward_model), recipe.settings_of("reward"), "start of a reward model"
        )
    if "vllm" in engines:
        vllm.check_installed()
    model = resolve_model(recipe.model)
    sources = [recipe.tokenizer or recipe.model, *([recipe.opponent] if recipe.opponent else [])]
    chats = [ChatFormat(load_tokenizer(resolve_model(source), recipe.evaluation), data) for source in sources]
    for stage in stages_of(recipe):
        method = METHODS[stage.method].method
        method.check_needs(with_model_places(stage.settings), chats[0])
        # What rounds train on is not there yet.
        check_order(stage.name, method, stage.settings, () if stage.round else splits.train)
    try:
        usable = answerable_rows(splits.test, chats)
        check_prompts(
            usable.prompts,
            recipe.evaluation.decoding.max_new_tokens,
            positions_of(model, recipe.evaluation),
            origins=[record.origin for record in usable.records],
        )
    except TrimtabError as error:
        raise TrimtabError(f"test rows: {error}") from None
    usable.say_dropped("test rows")
    splits.test, splits.left_out = usable.records, usable.dropped
    return chats[0]


def check_scored_rows(settings: Sequence[RewardSettings], records: Sequence[Record], *more: str) -> None:
    """Raises TrimtabError where a reward can't read the rows: a function needs a column that they don't have.

    more: what it is given besides.
    """
    for reward in settings if records else ():
        reward.check_rows(records, more)


def check_scorers(settings: Sequence[RewardSettings], records: Sequence[Record], option: str) -> None:
    """Raises TrimtabError for the sandbox's judge on rows that are not the sandbox's."""
    if not records or not any(reward.needs_sandbox for reward in settings):
        return
    prompts = [record.prompt for record in records[:100]]
    scored = GoldJudge().scored(prompts, [""] * len(prompts))
    if all(answer.score is None for answer in scored):
        raise TrimtabError(
            f"{option} gold: it knows the sandbox's prompts only, and none of these rows has one. Name a reward "
            f"for data of your own, such as {option} file.py:function or a reward model's folder."
        )
