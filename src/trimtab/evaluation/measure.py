"""What is measured of one model: completions of the test prompts, their scores, and its fluency.

Everything lands in a folder of its own, and what is there already for the same inputs is not done again.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from trimtab.data.beside import ignored_of
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.day import control_tokens_of_model, day_for, day_of_model, keep_day, values_of_model
from trimtab.data.hashing import hash_source
from trimtab.data.records import Record, columns_of
from trimtab.data.settings import BUDGET
from trimtab.data.splits import DataSettings, encode_records
from trimtab.data.trust import TrustSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import Decoding, generate, stop_tokens
from trimtab.evaluation.outputs import (
    Generation,
    Measured,
    MethodOutputs,
    Score,
    read_generations,
    read_measured,
    read_scores,
    write_measured,
    write_rows,
)
from trimtab.evaluation.perplexity import fluency
from trimtab.evaluation.vouchers import had_another_judge, only_say, others, vouch, vouched, warnings_of
from trimtab.files import clear_leftovers
from trimtab.folder_lock import holding
from trimtab.models.policy import Policy, Precision, load_policy, resolve_precision, trusting
from trimtab.models.vocabulary import check_ids, check_tokenizer
from trimtab.notices import collected, say, speaking_of, warn
from trimtab.rewards.base import Reward
from trimtab.rewards.function import FunctionReward
from trimtab.rewards.remote import RemoteReward

VERSION = 3
SCORES_SAID_EVERY = 10.0
"""Seconds between lines on how far a remote judge is."""


class EvaluationSettings(TrustSettings):
    decoding: Decoding = Decoding()
    """How completions are decoded."""
    precision: Precision = "auto"
    """What products are computed in: bf16 by autocast, or float32. auto: as in training."""
    token_budget: int = Field(4096, gt=0, le=BUDGET)
    """Packed tokens of a pass for perplexity: memory and speed."""


def measure(
    name: str,
    model: str,
    model_hash: str,
    test: Sequence[Record],
    validation: Sequence[Record],
    settings: EvaluationSettings,
    data: DataSettings,
    judge: Reward | None,
    folder: Path,
    tokenizer: str | None = None,
    report: Callable[[str], None] = lambda line: None,
    day: datetime.date | None = None,
    replaces: bool = True,
) -> MethodOutputs:
    """Generates, scores and measures, or reads what an earlier run left.

    Completions have a voucher of their own, so a run that was stopped while a slow judge scored, or that has
    another judge, does not generate them again. Scores that a server failed to give are asked for anew.

    replaces: what lies there of other inputs is made anew, which is said; without it TrimtabError.
    """
    with holding(folder), speaking_of(f"evaluation of {name}"):
        return _measure_held(
            name, model, model_hash, test, validation, settings, data, judge, folder, tokenizer, report, day,
            replaces,
        )  # fmt: skip


def _measure_held(
    name: str,
    model: str,
    model_hash: str,
    test: Sequence[Record],
    validation: Sequence[Record],
    settings: EvaluationSettings,
    data: DataSettings,
    judge: Reward | None,
    folder: Path,
    tokenizer: str | None,
    report: Callable[[str], None],
    day: datetime.date | None,
    replaces: bool,
) -> MethodOutputs:
    inputs = _inputs(model_hash, tokenizer or model, test, validation, settings, data, judge, _device())
    if (folder / "generations.jsonl").exists():  # a folder of ours
        clear_leftovers(folder)
    _say_of_others(folder, inputs, replaces)
    finished = vouched(folder / "inputs.json", inputs)
    missing = sum(s.score is None for s in _read(name, folder, judge).scores) if finished else 0
    if finished and not (missing and isinstance(judge, RemoteReward)):
        report("already done")
        return _read(name, folder, judge)
    generated = {key: value for key, value in inputs.items() if key != "judge"}
    if not finished:
        # What they vouched for is about to be replaced.
        (folder / "inputs.json").unlink(missing_ok=True)
        if not (vouched(folder / "generated.json", generated) and _has_measures(folder)):
            (folder / "generated.json").unlink(missing_ok=True)
            with collected() as told:
                _generate(name, model, test, validation, settings, data, folder, tokenizer, report, day)
            vouch(folder / "generated.json", generated, ["generations.jsonl"], told.by_subject)
    made, warned = ["generations.jsonl", "measures.json"], warnings_of(folder / "generated.json")
    if judge is not None:
        with collected() as told:
            _judge(judge, test, folder, report)
        made.append("scores.jsonl")
        warned |= told.by_subject
    vouch(folder / "inputs.json", inputs, made, warned)
    return _read(name, folder, judge)


def _say_of_others(folder: Path, inputs: dict[str, Any], replaces: bool) -> None:
    """TrimtabError, or a word, where the folder holds what was made of other inputs. Another judge may score the
    completions that are there."""
    if why := others(folder, inputs):
        if not replaces:
            raise TrimtabError(
                f"{folder}: holds another evaluation ({why}). Choose another --out, or remove this folder."
            )
        only_say(f"{folder}: holds another evaluation ({why}): it is made anew")
    elif had_another_judge(folder, inputs):
        only_say(f"{folder}: was judged otherwise before; its completions are kept, its scores are replaced")


def _generate(
    name: str,
    model: str,
    test: Sequence[Record],
    validation: Sequence[Record],
    settings: EvaluationSettings,
    data: DataSettings,
    folder: Path,
    tokenizer: str | None,
    report: Callable[[str], None],
    day: datetime.date | None,
) -> None:
    """Writes generations.jsonl and measures.json."""
    started = time.monotonic()
    device = _device()
    chat = ChatFormat(load_tokenizer(tokenizer or model, settings), data)
    if chat.asks_for_today:
        chat = chat.on(day_for(folder, day_of_model(model), day))
        keep_day(folder, chat.day)
    _say_what_is_left(model, test, chat, data, report)
    policy = load_policy(model, trusting(settings))
    policy.to(device).eval()
    check_tokenizer(chat.tokenizer, policy.model, f"model {model}")
    target = settings.decoding.target_length
    if target is not None and policy.length_encoding is None:
        report(f"has no length encoding; target_length={target} does not reach it")
    precision = resolve_precision(settings.precision, device)
    measured = _fluency(policy, chat, validation, settings, precision, device)
    if precision == "bf16":
        # Weights only: rotary frequencies are buffers, and rounded ones shift every position.
        for weight in policy.parameters():
            weight.data = weight.data.to(torch.bfloat16)
    rows = generate(
        policy.model,
        chat,
        [record.prompt for record in test],
        settings.decoding,
        stop_tokens(policy.model, chat),
        lambda done: report(f"{done}/{len(test)} completions"),
    )
    generations = [
        Generation(id=str(i), prompt=r.prompt_text, completion=g.text, tokens=g.tokens, terminated=g.terminated)
        for i, (r, g) in enumerate(zip(test, rows, strict=True))
    ]
    write_rows(folder / "generations.jsonl", generations)
    measured.seconds = time.monotonic() - started
    write_measured(folder, measured)


def _say_what_is_left(
    model: str,
    test: Sequence[Record],
    chat: ChatFormat,
    data: DataSettings,
    report: Callable[[str], None],
) -> None:
    """What rows hold that is not used, and values for the template that are not those of the model's training."""
    lost = Counter(item for record in test for item in ignored_of(record, chat))
    if lost:
        named = ", ".join(f"{item} ({count} rows)" for item, count in sorted(lost.items()))
        report(f"not used: {named}")
    if unread := chat.unread_values:
        warn(f"its chat template does not read {', '.join(unread)}", about="template values")
    trained = values_of_model(model)
    if trained != data.chat_template_kwargs and trained:
        given = data.chat_template_kwargs or "none"
        warn(
            f"trained with chat_template_kwargs {trained}, evaluated with {given}; set data.chat_template_kwargs "
            "to the same",
            about="template values of training",
        )
    control = control_tokens_of_model(model)
    if data.control_tokens != control != "text":
        warn(
            f"trained with control_tokens {control}, evaluated with {data.control_tokens}; set data.control_tokens "
            "to the same",
            about="control tokens of training",
        )


def _judge(judge: Reward, test: Sequence[Record], folder: Path, report: Callable[[str], None]) -> None:
    """Writes scores.jsonl."""
    started = time.monotonic()
    generations = read_generations(folder / "generations.jsonl")
    said = judge.on_score if isinstance(judge, RemoteReward) else None
    if isinstance(judge, RemoteReward):
        judge.on_score = _paced(lambda done, of: report(f"{done}/{of} scores"))
    try:
        scores = score_all(judge, test, generations)
    finally:
        if isinstance(judge, RemoteReward) and said is not None:
            judge.on_score = said  # the next seed's GRPO asks the same judge
    write_rows(folder / "scores.jsonl", scores)
    _warn_of_scores(scores)
    measured = read_measured(folder)
    measured.seconds += time.monotonic() - started
    write_measured(folder, measured)


def _warn_of_scores(scores: Sequence[Score]) -> None:
    """Of those that are missing, and of scores that tell no completion from another."""
    reasons = Counter(s.reason for s in scores if s.score is None)
    if reasons:
        (reason, count), *others = reasons.most_common()
        more = f", and {len(others)} other reasons (scores.jsonl)" if others else ""
        lacking = f"{reasons.total()} of {len(scores)} completions have no score ({count} × {reason}{more})"
        warn(lacking, about="missing scores")
    known = [s.score for s in scores if s.score is not None]
    if len(known) > 1 and min(known) == max(known):
        warn(
            f"all {len(known)} scores are {known[0]:g}: they tell no completion from another",
            about="equal scores",
        )


def _paced(report: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """The same, but not more often than a person reads."""
    last = time.monotonic()

    def paced(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > SCORES_SAID_EVERY:
            last = time.monotonic()
            report(done, of)

    return paced


def _fluency(
    policy: Policy,
    chat: ChatFormat,
    validation: Sequence[Record],
    settings: EvaluationSettings,
    precision: str,
    device: torch.device,
) -> Measured:
    answered = [record for record in validation if record.completions and not record.is_unpaired]
    groups, counts = encode_records(answered, chat, "first")
    if counts.dropped:
        lost = ", ".join(f"{n} × {reason}" for reason, n in counts.dropped.items())
        say(f"perplexity and bits per byte are of {counts.used} of {counts.rows} answers (left out: {lost})")
    if not groups:
        return Measured()
    check_ids((row for g in groups for row in (*g.prompts, *g.completions)), policy.model, "model")
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        found = fluency(policy, chat, groups, settings.token_budget, device)
    return Measured(perplexity=found.perplexity, bits_per_byte=found.bits_per_byte)


def score_all(judge: Reward, records: Sequence[Record], generations: Sequence[Generation]) -> list[Score]:
    """A score or a reason for each, with its parts. records: of the prompts; a function gets their columns, as in
    training."""
    prompts = [record.prompt for record in records]
    found = judge.scored(prompts, [g.completion for g in generations], columns=columns_of(records))
    if len(found) != len(generations):
        raise TrimtabError(f"judge {judge.name}: {len(found)} scores for {len(generations)} completions")
    return [
        Score(
            id=g.id,
            score=one.score,
            reason=one.reason or ("the judge gave no score" if one.score is None else None),
            breakdown=dict(one.breakdown),
        )
        for g, one in zip(generations, found, strict=True)
    ]


def _inputs(
    model_hash: str,
    tokenizer: str,
    test: Sequence[Record],
    validation: Sequence[Record],
    settings: EvaluationSettings,
    data: DataSettings,
    judge: Reward | None,
    device: torch.device,
) -> dict[str, Any]:
    rows = hashlib.blake2b(digest_size=16)
    for record in (*test, *validation):
        rows.update(repr((record.prompt, record.completions)).encode("utf-8", "surrogatepass"))
    return {
        "version": VERSION,
        "model": model_hash,
        "rows": rows.hexdigest(),
        "counts": [len(test), len(validation)],
        "decoding": settings.decoding.signature(),
        "precision": settings.precision,
        "device": device.type,
        "tokenizer": hash_source(tokenizer),
        "truncation": [data.max_length, data.min_completion_length],
        "judge": _judged_by(judge, test) if judge else None,
        **({"control_tokens": data.control_tokens} if data.control_tokens != "text" else {}),
        **({"chat_template_kwargs": data.chat_template_kwargs} if data.chat_template_kwargs else {}),
    }


def _judged_by(judge: Reward, test: Sequence[Record]) -> str:
    """What scores depend on beside prompts and completions: a function sees the rows' other columns too."""
    if not isinstance(judge, FunctionReward):
        return judge.signature
    columns = repr([sorted(record.columns.items()) for record in test]).encode("utf-8", "surrogatepass")
    return f"{judge.signature}|{hashlib.blake2b(columns, digest_size=16).hexdigest()}"


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _has_measures(folder: Path) -> bool:
    try:
        read_measured(folder)
    except TrimtabError as error:
        only_say(str(error))
        return False
    return True


def _read(name: str, folder: Path, judge: Reward | None) -> MethodOutputs:
    measured = read_measured(folder)
    return MethodOutputs(
        name,
        read_generations(folder / "generations.jsonl"),
        read_scores(folder / "scores.jsonl") if judge else [],
        measured.perplexity,
        measured.bits_per_byte,
        list(warnings_of(folder / "inputs.json").values()),
    )
