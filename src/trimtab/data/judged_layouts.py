"""Rows in which somebody said which of two answers is better, as other tools write them: the prompt, and the better
and the worse answer. Who named none of them better leaves no pair: an UnusableRowError, which is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trimtab.data.fields import (
    BadRowError,
    UnusableRowError,
    answer_of,
    json_of,
    last_answer,
    prompt_of,
    tools_of,
    turns_of,
)
from trimtab.data.message import Prompt, conversation
from trimtab.json_types import JsonValue

Row = Mapping[str, JsonValue]
LEFT = {"a", "model_a", "left", "1", "response1", "response_1", "answer1", "response_a"}
RIGHT = {"b", "model_b", "right", "2", "response2", "response_2", "answer2", "response_b"}
"""What the two sides are called where one is named as the better."""


class Judged(NamedTuple):
    """answers: the better first."""

    prompt: Prompt
    answers: tuple[str, str]


def better_first(winner: JsonValue, left: str, right: str) -> tuple[str, str]:
    """The answers in the order in which a row's winner puts them."""
    said = str(winner).strip().casefold()
    if said in LEFT:
        return left, right
    if said in RIGHT:
        return right, left
    raise UnusableRowError(f"{str(winner)[:40]!r} names no better answer, so there is no pair.")


def battle(row: Row) -> Judged:
    """LMArena's: two whole conversations. Those that part before their last turn answer different prompts."""
    a, b = (turns_of(row[name], name) for name in ("conversation_a", "conversation_b"))
    if not a[:-1] or a[:-1] != b[:-1]:
        raise UnusableRowError("the two conversations part before their last turn, so they are no pair.")
    left, right = (last_answer(turns[-1:], name) for turns, name in ((a, "conversation_a"), (b, "conversation_b")))
    return Judged(a[:-1], better_first(row["winner"], left, right))


def openai_pair(row: Row) -> Judged:
    """OpenAI's preference fine-tuning."""
    asked = row["input"]
    if not isinstance(asked, Mapping):
        raise BadRowError("column 'input' must be an object with 'messages'.")
    turns = turns_of(asked.get("messages"), "input.messages")
    tools = tools_of(asked.get("tools"))
    names = ("preferred_output", "non_preferred_output")
    better, worse = (last_answer(turns_of(row[name], name), name) for name in names)
    return Judged(conversation(turns, tools, "") if tools else turns, (better, worse))


def label_studio_task(row: Row) -> Judged:
    """Label Studio's export: a task with its annotations, each of which names a side by <Pairwise>. The side that
    more of them name is better."""
    data, annotations = row["data"], row["annotations"]
    if not isinstance(data, Mapping) or not isinstance(annotations, list):
        raise BadRowError("a task of Label Studio needs 'data' and a list of 'annotations'.")
    said = [verdict for one in annotations if isinstance(one, Mapping) and (verdict := verdict_of(one))]
    return _judged(data, "data", said)


def verdict_of(annotation: Row) -> str:
    """What an annotation of Label Studio says: a side by <Pairwise>, or another word by <Choices>; "" where it was
    skipped or says nothing."""
    results = annotation.get("result")
    if annotation.get("was_cancelled") or not isinstance(results, list):
        return ""
    values = [one.get("value") for one in results if isinstance(one, Mapping)]
    found = [value for value in values if isinstance(value, Mapping)]
    sides = [str(value["selected"]) for value in found if value.get("selected")]
    choices = [str(choice) for value in found for choice in value.get("choices") or ()]
    return next(iter([*sides, *choices]), "")


def flat_task(row: Row) -> Judged:
    """Label Studio's JSON_MIN and CSV: an annotation a row, beside the data of its task."""
    return _judged(row, "the row", [flat_verdict(row)])


def flat_verdict(row: Row) -> str:
    """The side that a column of <Pairwise> names; "" where none does."""
    for value in map(json_of, row.values()):
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, Mapping) and first.get("selected"):
            return str(first["selected"])
    return ""


SIDES = (
    ("answer1", "answer2"), ("response1", "response2"), ("answer_1", "answer_2"), ("response_1", "response_2"),
    ("answer_a", "answer_b"), ("response_a", "response_b"), ("left", "right"),
)  # fmt: skip
"""What the two answers are called in data and fields that people name themselves."""


def answers_in(data: Row, where: str) -> tuple[str, str]:
    """The answers that stood left and right. BadRowError where there are none."""
    names = next((names for names in SIDES if all(name in data for name in names)), None)
    if names is None:
        raise BadRowError(f"{where} needs two answers, such as {' and '.join(SIDES[0])}.")
    left, right = (answer_of(data[name], f"{where}.{name}") for name in names)
    return left, right


def _judged(data: Row, where: str, said: Sequence[str]) -> Judged:
    left, right = answers_in(data, where)
    return Judged(asked_in(data, where), better_first(_majority(said), left, right))


def argilla_record(row: Row) -> Judged:
    """Argilla's records: two fields, and responses to a question that name one of them."""
    fields, responses = row["fields"], row["responses"]
    if not isinstance(fields, Mapping) or not isinstance(responses, Mapping):
        raise BadRowError("a record of Argilla needs 'fields' and 'responses'.")
    return _judged(fields, "fields", [said for said, _ in responses_of(responses)])


def responses_of(responses: Row) -> list[tuple[str, str]]:
    """What was said, and by whom, to the first question whose answers are names: a label, or the best of a
    ranking."""
    for given in responses.values():
        said = []
        for one in given if isinstance(given, list) else ():
            if not isinstance(one, Mapping):
                continue
            value = one.get("value")
            best = value[0] if isinstance(value, list) and value else value
            best = best.get("value") if isinstance(best, Mapping) else best
            if isinstance(best, str):
                said.append((best, str(one.get("user_id") or "")))
        if said:
            return said
    return []


def _majority(said: Sequence[str]) -> str:
    """The side that more name; "tie" where neither is."""
    lefts = sum(one.strip().casefold() in LEFT for one in said)
    rights = sum(one.strip().casefold() in RIGHT for one in said)
    return "tie" if lefts == rights else "left" if lefts > rights else "right"


def asked_in(data: Row, where: str) -> Prompt:
    """The whole conversation where the data have it, else the prompt. BadRowError without either."""
    for name in ("messages", "prompt", "instruction", "question"):
        if data.get(name) is not None:
            return prompt_of(json_of(data[name]) if name == "messages" else data[name], f"{where}.{name}")
    raise BadRowError(f"{where} needs 'prompt', 'instruction', 'question' or 'messages'.")
