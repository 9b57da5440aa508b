"""Models by themselves: what they answer, and how good that is. `trimtab generate` and `trimtab evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trimtab.data.answerable import answerable_rows
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.parsing import apply_overrides
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.errors import TrimtabError
from trimtab.evaluation.instruction_accuracy import asked_of
from trimtab.evaluation.judge_card import THE_OPPONENT, relatives_of
from trimtab.evaluation.judge_probes import Probe, probe_judge, rows_of
from trimtab.evaluation.measure import measure
from trimtab.evaluation.outputs import Generation, MethodOutputs
from trimtab.evaluation.own_decoding import decoding_asked, own_decoding
from trimtab.evaluation.results import Provenance, Results, Source, SplitCounts
from trimtab.evaluation.row_columns import cluster_names, difficulties, takes_near_duplicates
from trimtab.evaluation.settings import EvaluationSettings, EvaluationTask
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.folder_lock import holding
from trimtab.json_types import JsonObject
from trimtab.models.kinds import check_model_source, positions_of
from trimtab.models.lora import hash_model
from trimtab.notices import Warnings, collected, say, warn
from trimtab.readers.labels import check_labels
from trimtab.readers.votes import with_labels
from trimtab.rewards.settings import reward_named
from trimtab.rewards.settings_base import RewardSettings
from trimtab.rollout.sampler import check_prompts
from trimtab.study.asked import check_pair, evaluation_settings, task_settings
from trimtab.study.collect import (
    chosen_lengths,
    chosen_texts,
    environment,
    evaluation_warnings,
    judge_warnings,
    opponent_name,
)
from trimtab.study.foreign import EVALUATED, GENERATED, TRAINED, refuse_others
from trimtab.study.needs import check_opponent, check_scored_rows, check_scorers
from trimtab.study.provenance import command_line, data_sources, model_sources, set_and_default, today
from trimtab.study.sources import make_judge, resolve_model
from trimtab.tasks.ask import check as check_tasks
from trimtab.tasks.ask import with_tasks, with_template


@dataclass(frozen=True)
class RowRange:
    """Which rows of a data set are evaluated: `rows` of them after the first `skip`; None: all that are left."""

    rows: int | None = None
    skip: int = 0

    def select(self, records: Sequence[Record], source: str) -> list[Record]:
        """The records of the range. TrimtabError where none is left; a warning where there are too few."""
        if self.skip < 0 or (self.rows is not None and self.rows < 1):
            raise TrimtabError("--rows takes a number from 1, --skip one from 0.")
        left = list(records[self.skip :])
        if not left:
            raise TrimtabError(f"--skip {self.skip}: {source} has {len(records)} rows, so none is left.")
        if self.rows is not None and self.rows > len(left):
            after = f" after the first {self.skip}" if self.skip else ""
            warn(f"--rows {self.rows}: {source} has only {len(left)} rows{after}, which are all taken")
        return left[: self.rows]

    def counts(self, splits: Splits) -> SplitCounts:
        """How many of the data's rows are evaluated, and why the others are not."""
        rows, unreadable = len(splits.train), len(splits.unreadable)
        kept = min(rows - self.skip, self.rows or rows)
        dropped = {"not among --rows and --skip": rows - kept, "unreadable": unreadable}
        return SplitCounts(read=rows + unreadable, kept=kept, dropped={why: n for why, n in dropped.items() if n})


@dataclass(frozen=True)
class Inputs:
    """What an evaluation reads.

    models: folders or hub names, by their names in results. records: those to answer. counts: what became of all
    rows.
    """

    models: Mapping[str, str]
    settings: EvaluationSettings
    data: DataSettings
    records: list[Record]
    counts: SplitCounts


def evaluation_inputs(
    command: str, models: Mapping[str, str], data: str, value: JsonObject, part: RowRange
) -> Inputs:
    """The checked settings and the rows. value: the evaluation's settings, in which `data` holds the data's own."""
    settings, rows = evaluation_settings(command, data, value)
    places = {name: resolve_model(model) for name, model in models.items()}
    for place in places.values():
        check_model_source(place, settings, "policy")
    splits = split_records(rows)
    if splits.unreadable:
        n = len(splits.unreadable)
        warn(f"{n} rows could not be used and were left out; the first: {splits.unreadable[0]}", "unreadable rows")
    records = part.select(splits.train, data)
    return Inputs(places, settings, rows, records, part.counts(splits))


def _answerable(inputs: Inputs, readers: Sequence[str], reads_answers: bool) -> tuple[Inputs, list[ChatFormat]]:
    """Without the rows that a template refuses. readers: where the tokenizers are of those that answer, the model's
    first."""
    chats = [ChatFormat(load_tokenizer(source, inputs.settings), inputs.data) for source in readers]
    usable = answerable_rows(inputs.records, chats, reads_answers)
    usable.say_dropped("evaluation" if reads_answers else "generate")
    cap, origins = inputs.settings.decoding.max_new_tokens, [record.origin for record in usable.records]
    for model in inputs.models.values():
        check_prompts(usable.prompts, cap, positions_of(model, inputs.settings), origins=origins)
    kept, dropped = inputs.counts.kept - sum(usable.dropped.values()), inputs.counts.dropped | usable.dropped
    counts = inputs.counts.model_copy(update={"kept": kept, "dropped": dropped})
    return replace(inputs, records=usable.records, counts=counts), chats


def generate_only(
    model: str,
    data: str,
    out: Path,
    tokenizer: str | None,
    overrides: Sequence[str],
    part: RowRange = RowRange(),
    replaces: bool = False,
) -> Path:
    """`trimtab generate`: writes the prompts' completions, unjudged, and returns their file.

    They are decoded as the model is meant to be (see own_decoding.py), but for what is set. replaces: what `out`
    has of other settings is made anew.
    """
    refuse_others(out, TRAINED | EVALUATED)
    value, whose = apply_overrides({}, overrides), ""
    named = value.get("decoding", {})
    if isinstance(named, dict):
        value["decoding"], whose = decoding_asked(named, own_decoding(resolve_model(model)))
    inputs = evaluation_inputs("generate", {"model": model}, data, value, part)
    decoding = inputs.settings.decoding
    place, tokenizer = inputs.models["model"], resolve_model(tokenizer) if tokenizer else None
    inputs, _ = _answerable(inputs, [tokenizer or place], reads_answers=False)
    asked = f"{decoding.in_words} ({whose}), at most {decoding.max_new_tokens} tokens each"
    say(f"{len(inputs.records)} prompts, {asked}")
    measure(EvaluationTask(
        "model", place, hash_model(place), inputs.records, [], inputs.settings, inputs.data, None, out,
        tokenizer, say, replaces=replaces, in_order=True,
    ))  # fmt: skip
    return out / "generations.jsonl"


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked of an evaluation.

    models: folders or hub names, by what each is called in results. value: settings, in which `data` holds the
    data's own. tokenizer: the models', where they have none of their own. name: of the results. replaces: what the
    folder has of other inputs is made anew.
    """

    models: Mapping[str, str]
    data: str
    value: JsonObject
    opponent: str | None = None
    judge: RewardSettings | None = None
    tokenizer: str | None = None
    part: RowRange = RowRange()
    name: str = "evaluation"
    replaces: bool = False


def evaluate_only(
    model: str,
    data: str,
    out: Path,
    opponent: str | None,
    judge: str | None,
    tokenizer: str | None,
    overrides: Sequence[str],
    part: RowRange = RowRange(),
    replaces: bool = False,
) -> Results:
    """`trimtab evaluate`: evaluates one model on the rows of a data set, against an opponent where one is named.
    replaces: what `out` has of other inputs is made anew."""
    scorer = reward_named(judge) if judge is not None else None
    value = apply_overrides({}, overrides)
    request = EvaluationRequest(
        {"model": model}, data, value, opponent, scorer, tokenizer, part, out.name, replaces
    )
    return evaluate_to_folder(request, out)


def evaluate_to_folder(request: EvaluationRequest, out: Path) -> Results:
    """Evaluates, and writes results and report beside the answers. What `out` has of the same inputs is kept.
    TrimtabError where it is the folder of something else."""
    refuse_others(out, TRAINED | GENERATED)
    with holding(out):
        results = evaluate_models(request, out)
        from trimtab.report.render import write_report  # loads matplotlib: after what is wrong with the settings

        results.write(out / "results.json")
        write_report(results, out)
    return results


def evaluate_models(request: EvaluationRequest, out: Path) -> Results:
    """Evaluates models on the same rows, against an opponent where one is named. out: for answers and scores."""
    with holding(out), collected() as run_warnings:
        return _evaluate(request, out, run_warnings)


def _evaluate(request: EvaluationRequest, out: Path, run_warnings: Warnings) -> Results:
    check_pair(request.opponent, request.judge)
    judge = make_judge(request.judge, out)
    inputs = evaluation_inputs("evaluate", request.models, request.data, request.value, request.part)
    clusters = cluster_names(inputs.records, inputs.settings.clusters)
    difficulty = difficulties(inputs.records, inputs.settings.difficulty)
    check_labels(inputs.settings.labels)
    if request.judge is not None:
        check_scorers([request.judge], inputs.records, "--judge")
        check_scored_rows([request.judge], inputs.records)
    opponent_place = resolve_model(request.opponent) if request.opponent else None
    if opponent_place:
        check_opponent(opponent_place, inputs.settings)
    tokenizer = resolve_model(request.tokenizer) if request.tokenizer else None
    readers = [tokenizer or place for place in inputs.models.values()]
    readers += [opponent_place] if opponent_place else []
    inputs, chats = _answerable(inputs, readers, reads_answers=True)
    _warn_of_tokenizers(list(inputs.models), chats)

    tasks = task_settings(request.value)
    if tasks is not None:
        tasks = with_template(tasks, readers[0], inputs.settings)
        names = [*inputs.models, *(["opponent"] if opponent_place else [])]
        check_tasks(tasks, out, dict(zip(names, readers, strict=True)), inputs.settings)

    def measured(
        name: str, model: str, tokenizer: str | None, against: MethodOutputs | None = None
    ) -> MethodOutputs:
        others = None if against is None else [g for g in against.generations if isinstance(g, Generation)]
        task = EvaluationTask(
            name, model, hash_model(model), inputs.records, inputs.records, inputs.settings, inputs.data, judge,
            out / "evaluation" / name, tokenizer, say, replaces=request.replaces, opponent=others,
        )  # fmt: skip
        return with_tasks(measure(task), task, tasks)

    # First, since a judge of pairs reads its answers.
    opponent = measured("opponent", opponent_place, None) if opponent_place else None
    answers = [measured(name, place, tokenizer, opponent) for name, place in inputs.models.items()]
    _mark_opponent(answers, inputs.models, opponent, opponent_place)
    if opponent is not None and request.opponent:
        opponent.name = opponent_name(request.opponent)
    lengths = chosen_lengths(chats[0], inputs.records)
    asked, unchecked = asked_of(inputs.records)
    probes: list[Probe] = []
    if judge is not None and opponent is not None:
        rows, count = rows_of(inputs.records), inputs.settings.judge_probes
        probes = probe_judge(judge, answers, opponent, rows, count, out)
    outputs = StudyOutputs(
        {}, answers, opponent, chosen_texts(inputs.records), lengths, asked, clusters, difficulty, probes=probes,
        near_duplicates=takes_near_duplicates(inputs.records, inputs.settings.clusters),
    )  # fmt: skip
    warnings = [
        *run_warnings.lines,
        *evaluation_warnings([*answers, *([opponent] if opponent else [])], run_warnings.lines),
        *(judge_warnings(request.judge) if request.judge else []),
        *filter(None, [unchecked]),
    ]
    return summarise(with_labels(outputs, inputs.settings.labels), _about(request, inputs, warnings))


def _mark_opponent(
    answers: Sequence[MethodOutputs],
    models: Mapping[str, str],
    opponent: MethodOutputs | None,
    opponent_place: str | None,
) -> None:
    """Marks a model that is the opponent's, and gave its very answers, as the opponent itself."""
    if opponent is None or opponent_place is None:
        return
    for made in answers:
        same = hash_model(models[made.name]) == hash_model(opponent_place)
        made.is_opponent = same and list(made.generations) == list(opponent.generations)


def _warn_of_tokenizers(names: Sequence[str], chats: Sequence[ChatFormat]) -> None:
    """Where models count differently. chats: the models' first, in the same order."""
    vocabularies = [chat.tokenizer.get_vocab() for chat in chats[: len(names)]]
    if others := [name for name, tokens in zip(names, vocabularies, strict=True) if tokens != vocabularies[0]]:
        warn(
            f"{', '.join(others)}: another tokenizer than {names[0]}'s, so perplexity and lengths in tokens do not "
            "compare; bits per byte and win rates do"
        )


def _about(request: EvaluationRequest, inputs: Inputs, warnings: Sequence[str]) -> About:
    models: dict[str, tuple[str, str] | None] = {
        name: (model, inputs.models[name]) for name, model in request.models.items()
    }
    models["opponent"] = (request.opponent, resolve_model(request.opponent)) if request.opponent else None
    tasks = task_settings(request.value)
    changed, defaults = set_and_default(
        {"": inputs.settings, "data": inputs.data} | ({"tasks": tasks} if tasks else {})
    )
    named = {**request.models, THE_OPPONENT: request.opponent or ""}
    return About(
        relatives=relatives_of(request.judge.model_names if request.judge else (), named),
        name=request.name,
        judge=request.judge.describe() if request.judge else None,
        warnings=warnings,
        data={"evaluation": inputs.counts},
        provenance=Provenance(
            versions=environment(0)["versions"],
            device=environment(0)["device"],
            hashes={name: hash_model(place) for name, place in inputs.models.items()},
            decoding=inputs.settings.decoding.signature(),
            command=command_line(),
            date=today(),
            models=model_sources(models),
            data=[
                Source(role="evaluated", name=source.name, hash=source.hash)
                for source in data_sources(inputs.data)[:1]
            ],
            settings=changed,
            defaults=defaults,
        ),
    )
