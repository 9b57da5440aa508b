"""One model by itself: what it answers, and how good that is. `trimtab generate` and `trimtab evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError
from trimtab.evaluation.measure import EvaluationSettings, measure
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.results import Provenance, Results
from trimtab.evaluation.summary import summarise
from trimtab.gather import chosen_lengths, chosen_texts, environment, judge_warnings
from trimtab.models.lora import hash_model
from trimtab.models.policy import check_model_source
from trimtab.notices import say
from trimtab.recipe import apply_overrides, data_settings, parse, reward_named
from trimtab.report.render import write_report
from trimtab.study import check_opponent, make_judge, resolve_model


def evaluation_inputs(
    model: str, data: str, overrides: Sequence[str]
) -> tuple[str, EvaluationSettings, DataSettings, list[Record]]:
    value = apply_overrides({}, overrides)
    rows = data_settings(data, None, value.pop("data", {}))
    settings = parse(EvaluationSettings, value, "--set (evaluation)")
    check_model_source(resolve_model(model), settings)
    return resolve_model(model), settings, rows, split_records(rows).train


def generate_only(model: str, data: str, out: Path, tokenizer: str | None, overrides: Sequence[str]) -> Path:
    """`trimtab generate`: the prompts' completions, unjudged."""
    where, settings, rows, records = evaluation_inputs(model, data, overrides)
    measure("model", where, hash_model(where), records, [], settings, rows, None, out, tokenizer, say)
    return out / "generations.jsonl"


def evaluate_only(
    model: str,
    data: str,
    out: Path,
    opponent: str | None,
    judge: str | None,
    tokenizer: str | None,
    overrides: Sequence[str],
) -> Results:
    """`trimtab evaluate`: one model on all rows of a data set, against an opponent where one is named."""
    if (judge is None) != (opponent is None):
        raise TrimtabError("--judge and --opponent go together: a win rate needs both.")
    named = reward_named(judge) if judge else None
    scorer = make_judge(named, out)
    where, settings, rows, records = evaluation_inputs(model, data, overrides)
    if opponent:
        check_opponent(resolve_model(opponent), settings)

    def one(name: str, source: str, its_tokenizer: str | None) -> MethodOutputs:
        folder = out / "evaluation" / name
        return measure(
            name, source, hash_model(source), records, records, settings, rows, scorer, folder,
            its_tokenizer, say,
        )  # fmt: skip

    mine = one("model", where, tokenizer)
    theirs = one("opponent", resolve_model(opponent), None) if opponent else None
    if theirs is not None and opponent not in (None, "model", "chosen"):
        theirs.name = opponent
    chat = ChatFormat(load_tokenizer(tokenizer or where, settings), rows)
    results = summarise(
        [mine],
        theirs,
        chosen_texts(records),
        chosen_lengths(chat, records),
        name=out.name,
        judge=named.words() if named else None,
        warnings=judge_warnings(named) if named else [],
        provenance=Provenance(
            versions=environment(0)["versions"],
            device=environment(0)["device"],
            hashes={"model": hash_model(where)},
            decoding=settings.decoding.signature(),
        ),
    )
    results.write(out / "results.json")
    write_report(results, out)
    return results
