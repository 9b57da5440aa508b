"""Files of annotation tools as rows of labels: Label Studio's tasks with annotations, its JSON_MIN and CSV, and
Argilla's records. Each judgement becomes a row with the columns of docs/labels.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from trimtab.data.fields import BadRowError
from trimtab.data.judged_layouts import LEFT, RIGHT, answers_in, flat_verdict, responses_of, verdict_of
from trimtab.json_types import JsonObject, JsonValue

SKIPPED = "skip"


def judgements_in(row: JsonObject) -> Iterator[JsonObject]:
    """The judgements that a row of an annotation tool holds; any other row as it is."""
    data, annotations, fields, responses = (row.get(n) for n in ("data", "annotations", "fields", "responses"))
    if isinstance(data, Mapping) and isinstance(annotations, list):
        for one in annotations:
            if isinstance(one, Mapping):
                yield _row(data, data, verdict_of(one), data.get("person") or _who(one.get("completed_by")))
    elif isinstance(fields, Mapping) and isinstance(responses, Mapping):
        metadata = row.get("metadata")
        beside = metadata if isinstance(metadata, Mapping) else {}
        for said, who in responses_of(responses):
            yield _row(fields, beside, said, beside.get("person") or who)
    elif "annotation_id" in row:
        said = flat_verdict(row) or str(row.get("tie") or row.get("choice") or "")
        yield _row(row, row, said, row.get("person") or row.get("annotator"))
    else:
        yield row


def _who(person: JsonValue) -> JsonValue:
    """Whom `completed_by` names: a number, or an object with one."""
    return person.get("email") or person.get("id") if isinstance(person, Mapping) else person


def _row(texts: Mapping[str, JsonValue], beside: Mapping[str, JsonValue], said: str, who: JsonValue) -> JsonObject:
    """texts: what holds prompt and answers. beside: what holds methods, the prompt's id and the training seed."""
    called = said.strip().casefold()
    winner = "left" if called in LEFT else "right" if called in RIGHT else said or SKIPPED
    row: JsonObject = {"winner": winner, "prompt": texts.get("messages") or texts.get("prompt"), "person": who}
    row |= {name: beside.get(name) for name in ("method_left", "method_right", "seed", "random")}
    row["id"] = beside.get("prompt_id")
    with suppress(BadRowError):  # labels may leave the answers out
        row["completion_left"], row["completion_right"] = answers_in(texts, "the row")
    return {name: value for name, value in row.items() if value is not None}
