"""One model by itself: what it answers, and how good that is. `trimtab generate` and `trimtab evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.command_settings import data_settings
from trimtab.data.answered import answered
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
from trimtab.study.run import check_functions, check_opponent, check_scorers, make_judge, resolve_model


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
    """model: its folder or hub name. records: those that were asked for. counts: what became of all rows."""

    model: str
    settings: EvaluationSettings
    data: DataSettings
    records: list[Record]
    counts: SplitCounts


def evaluation_inputs(command: str, model: str, data: str, overrides: Sequence[str], part: Part) -> Inputs:
    value = apply_overrides({}, overrides)
    given = value.pop("data", {})
    rows = data_settings(data, None, given)
    _refuse_ignored(command, given)
    settings = parse(EvaluationSettings, value, "--set (evaluation)")
    check_model_source(resolve_model(model), settings, "policy")
    splits = split_records(rows)
    if splits.unreadable:
        n = len(splits.unreadable)
        warn(f"{n} rows could not be used and were left out; the first: {splits.unreadable[0]}", "unreadable rows")
    records = part.of(splits.train, data)
    return Inputs(resolve_model(model), settings, rows, records, part.counts(splits))


def _answerable(asked: Inputs, readers: Sequence[str], reads_answers: bool) -> tuple[Inputs, list[ChatFormat]]:
    """Without the rows that a template refuses. readers: where the tokenizers are of those that answer, the model's
    first."""
    chats = [ChatFormat(load_tokenizer(one, asked.settings), asked.data) for one in readers]
    found = answered(asked.records, chats, reads_answers)
    found.tell("evaluation" if reads_answers else "generate")
    positions = positions_of(asked.model, asked.settings)
    cap, origins = asked.settings.decoding.max_new_tokens, [record.origin for record in found.records]
    check_prompts(found.prompts, cap, positions, origins=origins)
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
    asked = evaluation_inputs("generate", model, data, overrides, part)
    asked, _ = _answerable(asked, [tokenizer or asked.model], reads_answers=False)
    measure(EvaluationTask(
        "model", asked.model, hash_model(asked.model), asked.records, [], asked.settings, asked.data, None, out,
        tokenizer, say, replaces=False,
    ))  # fmt: skip
    return out / "generations.jsonl"


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
    _refuse_others(out, TRAINED | GENERATED)
    with holding(out), collected() as told:
        return _evaluate(model, data, out, opponent, judge, tokenizer, overrides, part, told)


def _evaluate(
    model: str,
    data: str,
    out: Path,
    opponent: str | None,
    judge: str | None,
    tokenizer: str | None,
    overrides: Sequence[str],
    part: Part,
    told: Warnings,
) -> Results:
    if (judge is None) != (opponent is None):
        raise TrimtabError("--judge and --opponent go together: a win rate needs both.")
    named = reward_named(judge) if judge is not None else None
    scorer = make_judge(named, out)
    asked = evaluation_inputs("evaluate", model, data, overrides, part)
    if named is not None:
        check_scorers([named], asked.records, "--judge")
        check_functions([named], asked.records)
    if opponent:
        check_opponent(resolve_model(opponent), asked.settings)
    readers = [tokenizer or asked.model, *([resolve_model(opponent)] if opponent else [])]
    asked, (chat, *_) = _answerable(asked, readers, reads_answers=True)
    where, settings, rows, records = asked.model, asked.settings, asked.data, asked.records

    def one(name: str, source: str, its_tokenizer: str | None) -> MethodOutputs:
        folder = out / "evaluation" / name
        return measure(EvaluationTask(
            name, source, hash_model(source), records, records, settings, rows, scorer, folder,
            its_tokenizer, say, replaces=False,
        ))  # fmt: skip

    mine = one("model", where, tokenizer)
    theirs = one("opponent", resolve_model(opponent), None) if opponent else None
    if theirs is not None and opponent:
        theirs.name = opponent_name(opponent)
    other = (opponent, resolve_model(opponent)) if opponent else None
    changed, defaults = set_and_default({"": settings, "data": rows})
    outputs = StudyOutputs({}, [mine], theirs, chosen_texts(records), chosen_lengths(chat, records))
    about = About(
        name=out.name,
        judge=named.describe() if named else None,
        warnings=[
            *told.lines,
            *evaluation_warnings([mine, *([theirs] if theirs else [])], told.lines),
            *(judge_warnings(named) if named else []),
        ],
        data={"evaluation": asked.counts},
        provenance=Provenance(
            versions=environment(0)["versions"],
            device=environment(0)["device"],
            hashes={"model": hash_model(where)},
            decoding=settings.decoding.signature(),
            command=command_line(),
            date=today(),
            models=model_sources({"model": (model, where), "opponent": other}),
            data=[Source(role="evaluated", name=one.name, hash=one.hash) for one in data_sources(rows)[:1]],
            settings=changed,
            defaults=defaults,
        ),
    )
    results = summarise(outputs, about)
    results.write(out / "results.json")
    write_report(results, out)
    return results
