"""The layouts that a row may have: one table. Adding one is a function and an entry.

A layout is known by its columns; the first whose columns a row has (none of them null) reads it. A
layout's function takes the row and gives a prompt with its completions; errors name the column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from trimtab.data.fields import (
    DIALOGUE,
    BadRowError,
    answer_of,
    dialogue_turns,
    has_value,
    label_of,
    last_answer,
    prompt_of,
    score_of,
    text_of,
    turns_of,
)
from trimtab.data.judged_layouts import (
    Judged,
    argilla_record,
    battle,
    flat_task,
    label_studio_task,
    openai_pair,
)
from trimtab.data.message import Message, Prompt, Turns
from trimtab.json_types import JsonValue

Row = Mapping[str, JsonValue]


class Content(NamedTuple):
    """What a row says: see records.Record."""

    prompt: Prompt
    completions: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    labels: tuple[bool, ...] | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout of rows. name: in counts and audits. columns: those that every row of it has, with spaces between.
    read: makes a row's content. also: columns that it reads besides, where they are there.

    unless: columns that must not be there, not even as null: a pair without its answers is a mistake in the
    data, and no prompt for GRPO.
    """

    name: str
    columns: str
    read: Callable[[Row], Content]
    unless: str = ""
    also: str = ""

    @property
    def reads(self) -> set[str]:
        """All columns that the layout reads where they are there."""
        return {*self.columns.split(), *self.also.split()}

    def suits(self, row: Row) -> bool:
        """Whether a row has the layout's columns, none of them null, and none of those that must not be there."""
        complete = all(row.get(name) is not None for name in self.columns.split())
        return complete and not any(name in row for name in self.unless.split())


def layout_of(row: Row) -> Layout:
    """The row's layout, or BadRowError that says what is missing."""
    layout = next((layout for layout in LAYOUTS if layout.suits(row)), None)
    if layout is not None:
        return layout
    has = {name for name, value in row.items() if value is not None}
    for present, missing in (("chosen", "rejected"), ("rejected", "chosen"), ("completion", "prompt")):
        if present in has and missing not in has:
            raise BadRowError(f"column {missing!r} is missing or null. {describe_columns(row)}")
    if row.get("label", ...) is None and has & {"completion", "messages", "conversations", "output"}:
        raise BadRowError(f"column 'label' is null. {describe_columns(row)}")
    if "text" in has:
        raise BadRowError(
            "column 'text' alone does not say where the prompt ends and the answer begins. Split it into "
            "'prompt' and 'completion', or into 'messages'."
        )
    raise BadRowError(f"no known layout. {describe_columns(row)}")


def describe_columns(row: Row) -> str:
    """What an error says of a row that has no layout: the columns that it has, and those that layouts need."""
    present = ", ".join(f"{name} (null)" if value is None else str(name) for name, value in row.items())
    needed = ", ".join("+".join(layout.columns.split()) for layout in LAYOUTS)
    return (
        f"Columns found: {present or 'none'}. A row needs {needed}. "
        "Columns of other names: data.columns, such as {prompt: question, chosen: best}."
    )


# ---- pairs


def _scores(row: Row) -> tuple[float, ...] | None:
    metadata = row.get("metadata")
    where = metadata if isinstance(metadata, Mapping) and "score_chosen" in metadata else row
    chosen, rejected = score_of(where.get("score_chosen")), score_of(where.get("score_rejected"))
    return None if chosen is None or rejected is None else (chosen, rejected)


NO_NUMBER = "score that is no number"


def _pair_content(prompt: Prompt, answers: tuple[str, str], row: Row) -> Content:
    """A score that is no number is no score: most methods need none."""
    metadata = row.get("metadata")
    places = [row, metadata] if isinstance(metadata, Mapping) else [row]
    scores = [place[name] for place in places for name in SCORES if has_value(place.get(name))]
    ignored = (NO_NUMBER,) if any(score_of(score) is None for score in scores) else ()
    return Content(prompt, answers, _scores(row), ignored=ignored)


SCORES = ("score_chosen", "score_rejected")


def _pair(prompt: Prompt, row: Row) -> Content:
    """A prompt of its own, and answers that may repeat its turns."""
    chosen, rejected = row["chosen"], row["rejected"]
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        return _pair_content(prompt, (answer_of(chosen, "chosen"), answer_of(rejected, "rejected")), row)
    left, right = turns_of(chosen, "chosen"), turns_of(rejected, "rejected")
    if isinstance(prompt, tuple):
        left, right = _without(prompt, left), _without(prompt, right)
    else:
        # A prompt that is text repeats the first user turn, or stands for conversations that lack one.
        shared, left, right = _split_shared(left, right)
        _check_agreement(prompt, shared, "'chosen' and 'rejected'")
        prompt = shared or prompt
    return _pair_content(prompt, (last_answer(left, "chosen"), last_answer(right, "rejected")), row)


def _prompted_pair(row: Row) -> Content:
    return _pair(prompt_of(row["prompt"], "prompt"), row)


def _sharegpt_pair(row: Row) -> Content:
    return _pair(turns_of(row["conversations"], "conversations"), row)


def _instructed_pair(row: Row) -> Content:
    return _pair(_instruction(row, "instruction"), row)


def _asked_pair(row: Row) -> Content:
    return _pair(_instruction(row, "question"), row)


def _implicit_pair(row: Row) -> Content:
    """What both conversations share is the prompt: all but the last turn, or in text written as
    Human/Assistant all before the last "Assistant:". A common beginning of other texts is no prompt:
    two answers that both begin with "The" share that too."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list):
        shared, left, right = _split_shared(turns_of(chosen, "chosen"), turns_of(rejected, "rejected"))
        if not shared:
            raise BadRowError(f"column 'prompt' is missing and nothing is shared. {describe_columns(row)}")
        return _pair_content(shared, (last_answer(left, "chosen"), last_answer(right, "rejected")), row)
    if isinstance(chosen, Mapping) or isinstance(rejected, Mapping):  # ShareGPT's answers
        raise BadRowError(f"column 'conversations' or 'prompt' is missing or null. {describe_columns(row)}")
    before, better = _split_dialogue(text_of(chosen, "chosen"), "chosen")
    also_before, worse = _split_dialogue(text_of(rejected, "rejected"), "rejected")
    if before != also_before:
        raise BadRowError("'chosen' and 'rejected' do not share the text before their last 'Assistant:'.")
    return _pair_content(dialogue_turns(before), (better, worse), row)


def _split_dialogue(text: str, column: str) -> tuple[str, str]:
    """Text written as Human/Assistant -> what stands before the last answer, and the answer."""
    before, mark, answer = text.rpartition("\n\nAssistant:")
    first = DIALOGUE.match(before)
    if not mark or first is None or first[1] != "Human":
        raise BadRowError(
            f"column 'prompt' is missing or null, and {column!r} is no text of 'Human:' and 'Assistant:' turns "
            "that would show where the answer begins. Give the prompt in a column of its own."
        )
    return before, answer.strip()


def _check_agreement(prompt: object, turns: Turns, where: str) -> None:
    """BadRowError where a column 'prompt' says something else than the turns before the answer: one of the two is
    wrong. It may be a part of a turn, or hold one; white space is no difference."""
    if not turns or not has_value(prompt):
        return
    if isinstance(prompt, list):
        agrees = turns_of(prompt, "prompt") == turns[: len(prompt)] or turns_of(prompt, "prompt")[-1] in turns
    elif isinstance(prompt, str):
        asked = " ".join(prompt.split())
        contents = [" ".join(turn.content.split()) for turn in turns]
        agrees = any(asked in text or (text and text in asked) for text in contents)
    else:
        agrees = False
    if not agrees:
        raise BadRowError(
            f"column 'prompt' contradicts the turns of {where}: it is none of them. Remove the wrong one."
        )


def _without(prompt: Turns, turns: Turns) -> Turns:
    return turns[len(prompt) :] if turns[: len(prompt)] == prompt and len(turns) > len(prompt) else turns


def _split_shared(left: Turns, right: Turns) -> tuple[Turns, Turns, Turns]:
    """An implicit prompt is all but the last turn, and must be the same on both sides."""
    if left[:-1] != right[:-1]:
        raise BadRowError("'chosen' and 'rejected' do not share the turns before their last.")
    return left[:-1], left[-1:], right[-1:]


# ---- one completion, with a label or without


def _completion(row: Row) -> Content:
    return Content(prompt_of(row["prompt"], "prompt"), (answer_of(row["completion"], "completion"),))


def _conversation(column: str) -> Callable[[Row], Content]:
    """The last assistant's turn is the completion, the turns before it the prompt."""

    def read(row: Row) -> Content:
        turns = turns_of(row[column], column)
        if len(turns) < 2:
            raise BadRowError(f"column {column!r} needs a turn before the assistant's last, found none.")
        _check_agreement(row.get("prompt"), turns[:-1], repr(column))
        return Content(turns[:-1], (last_answer(turns[-1:], column),))

    return read


def _labelled(read: Callable[[Row], Content]) -> Callable[[Row], Content]:
    """KTO's: whether the completion is desirable."""
    return lambda row: read(row)._replace(labels=(label_of(row["label"]),))


def _instruction(row: Row, column: str) -> Prompt:
    """Alpaca's: an instruction with an input below it, after earlier exchanges where there is a history."""
    asked = prompt_of(row[column], column)
    if isinstance(asked, tuple):
        return asked
    further = row.get("input")
    if further is not None and text_of(further, "input").strip():
        asked = f"{asked}\n{further}"
    history = row.get("history")
    if not history:
        return asked
    if not isinstance(history, list) or any(not isinstance(e, list) or len(e) != 2 for e in history):
        raise BadRowError("column 'history' must be a list of exchanges, each of two texts.")
    roles = ("user", "assistant")
    past = [
        Message(role, text_of(text, "history"))
        for exchange in history
        for role, text in zip(roles, exchange, strict=True)
    ]
    return (*past, Message("user", asked))


def _answered(column: str) -> Callable[[Row], Content]:
    return lambda row: Content(_instruction(row, column), (answer_of(row["output"], "output"),))


def _ultrafeedback(row: Row) -> Content:
    """openbmb/UltraFeedback: several completions with overall scores; best first."""
    if not isinstance(row["completions"], list) or not row["completions"]:
        raise BadRowError("column 'completions' must be a list of completions that is not empty.")
    answers: list[tuple[float, str]] = []
    for item in row["completions"]:
        if not isinstance(item, Mapping) or not isinstance(item.get("response"), str):
            raise BadRowError("each of 'completions' needs a text 'response'.")
        rating = next((item[k] for k in ("overall_score", "fine-grained_score") if item.get(k) is not None), None)
        text, score = text_of(item["response"], "response"), score_of(rating)
        if score is not None:
            answers.append((score, text))
    if not answers:
        raise BadRowError("none of 'completions' has an 'overall_score' that is a number, so none is the best.")
    answers.sort(key=lambda answer: -answer[0])
    left = ("completion without a score",) * (len(row["completions"]) > len(answers))
    prompt = prompt_of(row["instruction"], "instruction")
    scores = tuple(score for score, _ in answers)
    return Content(prompt, tuple(text for _, text in answers), scores, ignored=left)


def _prompt_alone(row: Row) -> Content:
    return Content(prompt_of(row["prompt"], "prompt"), ())


def _judged(read: Callable[[Row], Judged]) -> Callable[[Row], Content]:
    """What somebody said of two answers, in another tool's file."""
    return lambda row: Content(*read(row))


SCORED, ASKED = "score_chosen score_rejected metadata", "input history"
LAYOUTS = (
    Layout("pairs", "prompt chosen rejected", _prompted_pair, also=SCORED),
    Layout("ShareGPT pairs", "conversations chosen rejected", _sharegpt_pair, also=SCORED),
    Layout("Alpaca pairs", "instruction chosen rejected", _instructed_pair, also=f"{ASKED} {SCORED}"),
    Layout("question pairs", "question chosen rejected", _asked_pair, also=f"{ASKED} {SCORED}"),
    Layout("pairs with an implicit prompt", "chosen rejected", _implicit_pair, also=SCORED),
    Layout(
        "battles (LMArena)", "conversation_a conversation_b winner", _judged(battle), also="model_a model_b judge"
    ),
    Layout("pairs (OpenAI)", "input preferred_output non_preferred_output", _judged(openai_pair)),
    Layout("tasks (Label Studio)", "data annotations", _judged(label_studio_task)),
    Layout("flat tasks (Label Studio)", "answer1 answer2 annotation_id", _judged(flat_task), also="prompt"),
    Layout("records (Argilla)", "fields responses", _judged(argilla_record)),
    Layout("labelled completions (KTO)", "prompt completion label", _labelled(_completion)),
    Layout("labelled conversations (KTO)", "messages label", _labelled(_conversation("messages")), also="prompt"),
    Layout(
        "labelled ShareGPT (KTO)", "conversations label", _labelled(_conversation("conversations")), also="prompt"
    ),
    Layout("labelled Alpaca (KTO)", "instruction output label", _labelled(_answered("instruction")), also=ASKED),
    Layout("prompt and completion", "prompt completion", _completion, unless="label"),
    Layout("UltraFeedback", "instruction completions", _ultrafeedback),
    Layout("Alpaca", "instruction output", _answered("instruction"), unless="label", also=ASKED),
    Layout("questions with answers", "question output", _answered("question"), also=ASKED),
    Layout("conversations", "messages", _conversation("messages"), unless="chosen rejected label", also="prompt"),
    Layout(
        "ShareGPT", "conversations", _conversation("conversations"), unless="chosen rejected label", also="prompt"
    ),
    Layout("prompts alone (GRPO, PPO)", "prompt", _prompt_alone, unless="chosen rejected completion"),
)
"""The first that suits a row reads it."""
