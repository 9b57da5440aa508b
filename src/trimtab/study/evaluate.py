"""Models by themselves: what they answer, and how good that is. `trimtab generate` and `trimtab evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.command_settings import data_settings
from trimtab.data.answerable import answerable_rows
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.parsing import apply_overrides, parse
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.errors import TrimtabError
from trimtab.evaluation.measure import measure
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.results import Provenance, Results, Source, SplitCounts
from trimtab.evaluation.settings import EvaluationSettings, EvaluationTask
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.folder_lock import holding
from trimtab.models.kinds import check_model_source, positions_of
from trimtab.models.lora import hash_model
from trimtab.notices import Warnings, collected, say, warn
from trimtab.report.render import write_report
from trimtab.rewards.settings import reward_named
from trimtab.rewards.settings_base import RewardSettings
from trimtab.rollout.sampler import check_prompts
from trimtab.study.asked import command_line, data_sources, model_sources, set_and_default, today
from trimtab.study.collect import (
    chosen_lengths,
    chosen_texts,
    environment,
    evaluation_warnings,
    judge_warnings,
    opponent_name,
)
from trimtab.study.needs import check_functions, check_opponent, check_scorers
from trimtab.study.sources import make_judge, resolve_model


@dataclass(frozen=True)
class Part:
    """Which rows of a data set: so many, after the first `skip`; None: all that are left."""

    rows: int | None = None
    skip: int = 0

    def of(self, records: Sequence[Record], source: str) -> list[Record]:
        """TrimtabError where no row is left; a warning where there are fewer than asked for."""
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
        """What became of the data's rows."""
        rows, unreadable = len(splits.train), len(splits.unreadable)
        kept = min(rows - self.skip, self.rows or rows)
        dropped = {"not among --rows and --skip": rows - kept, "unreadable": unreadable}
        return SplitCounts(read=rows + unreadable, kept=kept, dropped={why: n for why, n in dropped.items() if n})


SPLITTING = ("validation", "test")
CUTTING = ("max_length", "min_completion_length")


def _refuse_ignored(command: str, given: Mapping[str, Any]) -> None:
    """TrimtabError for settings of the data that mean something in training only."""
    for name, value in given.items():
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


@dataclass(frozen=True)
class Inputs:
    """models: folders or hub names, by their names in results. records: those that were asked for. counts: what
    became of all rows."""

    models: Mapping[str, str]
    settings: EvaluationSettings
    data: DataSettings
    records: list[Record]
    counts: SplitCounts


def evaluation_inputs(
    command: str, models: Mapping[str, str], data: str, value: Mapping[str, Any], part: Part
) -> Inputs:
    """The checked settings and the rows. value: the evaluation's settings, in which `data` holds the data's own."""
    value = dict(value)
    given = value.pop("data", {})
    rows = data_settings(data, None, given)
    _refuse_ignored(command, given)
    settings = parse(EvaluationSettings, value, "--set (evaluation)")
    places = {name: resolve_model(model) for name, model in models.items()}
    for place in places.values():
        check_model_source(place, settings, "policy")
    splits = split_records(rows)
    if splits.unreadable:
        n = len(splits.unreadable)
        warn(f"{n} rows could not be used and were left out; the first: {splits.unreadable[0]}", "unreadable rows")
    records = part.of(splits.train, data)
    return Inputs(places, settings, rows, records, part.counts(splits))


def _answerable(asked: Inputs, readers: Sequence[str], reads_answers: bool) -> tuple[Inputs, list[ChatFormat]]:
    """Without the rows that a template refuses. readers: where the tokenizers are of those that answer, the model's
    first."""
    chats = [ChatFormat(load_tokenizer(one, asked.settings), asked.data) for one in readers]
    found = answerable_rows(asked.records, chats, reads_answers)
    found.say_dropped("evaluation" if reads_answers else "generate")
    cap, origins = asked.settings.decoding.max_new_tokens, [record.origin for record in found.records]
    for model in asked.models.values():
        check_prompts(found.prompts, cap, positions_of(model, asked.settings), origins=origins)
    kept, dropped = asked.counts.kept - sum(found.dropped.values()), asked.counts.dropped | found.dropped
    counts = asked.counts.model_copy(update={"kept": kept, "dropped": dropped})
    return replace(asked, records=found.records, counts=counts), chats


def _refuse_others(out: Path, foreign: Mapping[str, str]) -> None:
    """TrimtabError where `out` is the folder of something else, whose results this would replace. foreign: by a
    file or folder in it, what it is the folder of."""
    for name, what in foreign.items():
        if (out / name).exists():
            raise TrimtabError(f"{out}: is the folder of {what}. Choose another --out.")


TRAINED = {"recipe.yaml": "a study", "stage.json": "a trained model"}
GENERATED = {"generations.jsonl": "trimtab generate"}
EVALUATED = {"evaluation": "trimtab evaluate"}


def generate_only(
    model: str, data: str, out: Path, tokenizer: str | None, overrides: Sequence[str], part: Part = Part()
) -> Path:
    """`trimtab generate`: the prompts' completions, unjudged."""
    _refuse_others(out, TRAINED | EVALUATED)
    asked = evaluation_inputs("generate", {"model": model}, data, apply_overrides({}, overrides), part)
    place = asked.models["model"]
    asked, _ = _answerable(asked, [tokenizer or place], reads_answers=False)
    measure(EvaluationTask(
        "model", place, hash_model(place), asked.records, [], asked.settings, asked.data, None, out,
        tokenizer, say, replaces=False,
    ))  # fmt: skip
    return out / "generations.jsonl"


@dataclass(frozen=True)
class EvaluationRequest:
    """What is asked of an evaluation.

    models: folders or hub names, by what each is called in results. value: settings, in which `data` holds the
    data's own. tokenizer: the models', where they have none of their own. name: of the results.
    """

    models: Mapping[str, str]
    data: str
    value: Mapping[str, Any]
    opponent: str | None = None
    judge: RewardSettings | None = None
    tokenizer: str | None = None
    part: Part = Part()
    name: str = "evaluation"


def evaluate_only(
    model: str,
    data: str,
    out: Path,
    opponent: str | None,
    judge: str | None,
    tokenizer: str | None,
    overrides: Sequence[str],
    part: Part = Part(),
) -> Results:
    """`trimtab evaluate`: one model on the rows of a data set, against an opponent where one is named."""
    scorer = reward_named(judge) if judge is not None else None
    value = apply_overrides({}, overrides)
    request = EvaluationRequest({"model": model}, data, value, opponent, scorer, tokenizer, part, out.name)
    return evaluate_to_folder(request, out)


def evaluate_to_folder(request: EvaluationRequest, out: Path) -> Results:
    """Evaluates, and writes results and report beside the answers. What `out` has of the same inputs is kept.
    TrimtabError where it is the folder of something else."""
    _refuse_others(out, TRAINED | GENERATED)
    with holding(out):
        results = evaluate_models(request, out)
        results.write(out / "results.json")
        write_report(results, out)
    return results


def evaluate_models(request: EvaluationRequest, out: Path) -> Results:
    """Evaluates models on the same rows, against an opponent where one is named. out: for answers and scores."""
    with holding(out), collected() as told:
        return _evaluate(request, out, told)


def _evaluate(request: EvaluationRequest, out: Path, told: Warnings) -> Results:
    if (request.judge is None) != (request.opponent is None):
        raise TrimtabError("--judge and --opponent go together: a win rate needs both.")
    judge = make_judge(request.judge, out)
    asked = evaluation_inputs("evaluate", request.models, request.data, request.value, request.part)
    if request.judge is not None:
        check_scorers([request.judge], asked.records, "--judge")
        check_functions([request.judge], asked.records)
    opponent_place = resolve_model(request.opponent) if request.opponent else None
    if opponent_place:
        check_opponent(opponent_place, asked.settings)
    readers = [request.tokenizer or place for place in asked.models.values()]
    readers += [opponent_place] if opponent_place else []
    asked, chats = _answerable(asked, readers, reads_answers=True)
    _warn_of_tokenizers(list(asked.models), chats)

    def measured(name: str, model: str, tokenizer: str | None) -> MethodOutputs:
        return measure(EvaluationTask(
            name, model, hash_model(model), asked.records, asked.records, asked.settings, asked.data, judge,
            out / "evaluation" / name, tokenizer, say, replaces=False,
        ))  # fmt: skip

    answers = [measured(name, place, request.tokenizer) for name, place in asked.models.items()]
    opponent = measured("opponent", opponent_place, None) if opponent_place else None
    if opponent is not None and request.opponent:
        opponent.name = opponent_name(request.opponent)
    lengths = chosen_lengths(chats[0], asked.records)
    outputs = StudyOutputs({}, answers, opponent, chosen_texts(asked.records), lengths)
    warnings = [
        *told.lines,
        *evaluation_warnings([*answers, *([opponent] if opponent else [])], told.lines),
        *(judge_warnings(request.judge) if request.judge else []),
    ]
    return summarise(outputs, _about(request, asked, warnings))


def _warn_of_tokenizers(names: Sequence[str], chats: Sequence[ChatFormat]) -> None:
    """Where models count differently. chats: the models' first, in the same order."""
    vocabularies = [chat.tokenizer.get_vocab() for chat in chats[: len(names)]]
    if others := [name for name, one in zip(names, vocabularies, strict=True) if one != vocabularies[0]]:
        warn(
            f"{', '.join(others)}: another tokenizer than {names[0]}'s, so perplexity and lengths in tokens do not "
            "compare; bits per byte and win rates do"
        )


def _about(request: EvaluationRequest, asked: Inputs, warnings: Sequence[str]) -> About:
    models: dict[str, tuple[str, str] | None] = {
        name: (model, asked.models[name]) for name, model in request.models.items()
    }
    models["opponent"] = (request.opponent, resolve_model(request.opponent)) if request.opponent else None
    changed, defaults = set_and_default({"": asked.settings, "data": asked.data})
    return About(
        name=request.name,
        judge=request.judge.describe() if request.judge else None,
        warnings=warnings,
        data={"evaluation": asked.counts},
        provenance=Provenance(
            versions=environment(0)["versions"],
            device=environment(0)["device"],
            hashes={name: hash_model(place) for name, place in asked.models.items()},
            decoding=asked.settings.decoding.signature(),
            command=command_line(),
            date=today(),
            models=model_sources(models),
            data=[Source(role="evaluated", name=one.name, hash=one.hash) for one in data_sources(asked.data)[:1]],
            settings=changed,
            defaults=defaults,
        ),
    )
