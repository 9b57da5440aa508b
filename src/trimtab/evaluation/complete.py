"""A model's completions of the test prompts, and its fluency on the chosen ones."""

from __future__ import annotations

import time
from collections import Counter

import torch

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.day import control_tokens_of_model, day_for, day_of_model, keep_day, values_of_model
from trimtab.data.split_groups import COLUMN, encode_records
from trimtab.data.template_features import ignored_of
from trimtab.devices import autocast, best_device, keep_freed_memory
from trimtab.evaluation.arriving import ROWS, ArrivingRows
from trimtab.evaluation.generate import generate, stop_tokens
from trimtab.evaluation.outputs import Measured, write_measured, write_rows
from trimtab.evaluation.perplexity import fluency
from trimtab.evaluation.settings import EvaluationTask
from trimtab.instructions.checks import COLUMNS
from trimtab.json_types import JsonObject
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.models.settings import resolve_precision, trusting
from trimtab.models.vocabulary import check_ids, check_tokenizer
from trimtab.notices import say, warn


def evaluation_device() -> torch.device:
    """The first GPU, or the CPU."""
    return best_device()


def complete(task: EvaluationTask, inputs: JsonObject) -> None:
    """Writes generations.jsonl and measures.json into the task's folder, and goes on from the completions that it
    has. inputs: what they depend on."""
    started = time.monotonic()
    device = evaluation_device()
    chat = ChatFormat(load_tokenizer(task.tokenizer_source, task.settings), task.data)
    if chat.asks_for_today:
        chat = chat.with_day(day_for(task.folder, day_of_model(task.model), task.day))
        keep_day(task.folder, chat.day)
    _say_what_is_left(task, chat)
    keep_freed_memory()
    policy = load_policy(task.model, trusting(task.settings))
    policy.to(device).eval()
    check_tokenizer(chat.tokenizer, policy.model, f"model {task.model}")
    if unheard := task.settings.decoding.unheard_by(policy):
        task.report(unheard)
    rows = ArrivingRows(task.folder, inputs, task.test, resolve_precision(task.settings.precision, device))
    precision = rows.precision
    measured = _fluency(policy, chat, task, precision, device)
    if precision == "bf16":
        # Weights only: rotary frequencies are buffers, and rounded ones shift every position.
        for weight in policy.parameters():
            weight.data = weight.data.to(torch.bfloat16)
    prompts, stops = [record.prompt for record in task.test], stop_tokens(policy.model, chat)
    with rows:
        if rows.kept:
            task.report(f"{len(rows.kept)} of {len(task.test)} completions were there already")
        completions = generate(
            policy, chat, prompts, task.settings.decoding, stops,
            kept=rows.kept, arrived=rows.add, in_order=task.in_order,
        )  # fmt: skip
    write_rows(task.folder / ROWS, [rows.row(place, completion) for place, completion in enumerate(completions)])
    measured.seconds = rows.seconds + time.monotonic() - started
    write_measured(task.folder, measured)


def _say_what_is_left(task: EvaluationTask, chat: ChatFormat) -> None:
    """What rows hold that is not used, and values for the template that are not those of the model's training."""
    lost = Counter(item for record in task.test for item in ignored_of(record, chat))
    for item in list(lost):
        column = item.removeprefix(COLUMN)
        if column in COLUMNS or (task.judge is not None and task.judge.reads(column)):
            del lost[item]  # the judge or a metric reads it
    if lost:
        named = ", ".join(f"{item} ({count} rows)" for item, count in sorted(lost.items()))
        task.report(f"not used: {named}")
    if unread := chat.unread_values:
        warn(f"its chat template does not read {', '.join(unread)}", about="template values")
    trained, data = values_of_model(task.model), task.data
    if trained != data.chat_template_kwargs and trained:
        warn(
            f"trained with chat_template_kwargs {trained}, evaluated with {data.chat_template_kwargs or 'none'}; "
            "set data.chat_template_kwargs to the same",
            about="template values of training",
        )
    control = control_tokens_of_model(task.model)
    if data.control_tokens != control != "text":
        warn(
            f"trained with control_tokens {control}, evaluated with {data.control_tokens}; set data.control_tokens "
            "to the same",
            about="control tokens of training",
        )


def _fluency(
    policy: Policy, chat: ChatFormat, task: EvaluationTask, precision: str, device: torch.device
) -> Measured:
    answered = [record for record in task.validation if record.completions and not record.is_unpaired]
    groups, counts = encode_records(answered, chat, "first")
    if counts.dropped:
        lost = ", ".join(f"{n} × {reason}" for reason, n in counts.dropped.items())
        say(f"perplexity and bits per byte are of {counts.used} of {counts.rows} answers (left out: {lost})")
    if not groups:
        return Measured()
    check_ids((row for g in groups for row in (*g.prompts, *g.completions)), policy.model, "model")
    with autocast(device, precision):
        chosen = fluency(policy, chat, groups, answered, task.settings.token_budget, device)
    return Measured(perplexity=chosen.perplexity, bits_per_byte=chosen.bits_per_byte)
