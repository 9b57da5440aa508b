"""A stage: one method, one model, one data set, one folder.

    STAGE/stage.json     what the folder is for: the hash of all inputs
          data.json      what became of the rows
          settled.json   what `auto` chose, kept on resume
          warnings.json  while it goes on (see notices.py); then in done.json
          metrics.jsonl  samples.jsonl  checkpoints/
          best/          a plain Hugging Face folder
          last/          the same of the last weights, where best/ is the model that training started from
          done.json      written last

A stage whose done.json has the same hash is skipped; one that was killed goes on where it was; a folder
of other inputs is refused.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState

from trimtab.data.adapters import tokenizer_source
from trimtab.data.answerable import renderable_prompts
from trimtab.data.chat import load_tokenizer
from trimtab.data.day import day_for, day_of_model, keep_day
from trimtab.data.encoding import remark_lines
from trimtab.data.hashing import hash_source
from trimtab.data.split_groups import CompletionsOf, SplitCounts, encode_records, require_groups
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.devices import on_cpu, reset_peak_memory
from trimtab.evaluation.generate import Decoding, generate, stop_tokens
from trimtab.files import write_json
from trimtab.folder_lock import holding
from trimtab.models.kinds import check_model_source
from trimtab.models.lora import hash_model
from trimtab.models.policy import Policy
from trimtab.models.vocabulary import check_vocabulary
from trimtab.notices import Warnings, collected, say, warn
from trimtab.rewards.base import Reward
from trimtab.rewards.settings import without_asking
from trimtab.training.accelerator import make_accelerator
from trimtab.training.changed import changes_of
from trimtab.training.checkpoint import Checkpoints
from trimtab.training.ending import WARNINGS, mark_done
from trimtab.training.folder import changed_model, check_finished, inputs_key, open_stage_folder, resolve_auto
from trimtab.training.loop import Loop
from trimtab.training.round_trip import read_back_once, rehearse
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import StageMethod, TrainingContext

SAMPLES, SAMPLE_TOKENS = 4, 128


def stage_inputs(
    name: str, method: type[StageMethod], settings: TrainingSettings, data: DataSettings, model: str, tokenizer: str
) -> dict[str, Any]:
    """Everything that the result depends on."""
    sources = [s for s in (data.train, data.validation) if s]
    training = data.model_dump(exclude={"test", "test_split"} if data.test else set())
    for part in ("train", "validation", "test", *(() if data.limit else ("limit",))):
        training.pop(part, None)
    return {
        "stage": name,
        "version": method.version,
        "settings": without_asking(settings.model_dump()),
        "data": training,
        "data_hashes": [hash_source(source, nested=True) for source in sources],
        "model": hash_model(model),
        "tokenizer": hash_source(tokenizer_source(tokenizer)),
        **method.other_inputs(settings),
    }


def run_stage(
    name: str,
    method: type[StageMethod],
    settings: TrainingSettings,
    data: DataSettings,
    model: str,
    out: Path,
    tokenizer: str | None = None,
    cache: Path | None = None,
    splits: Splits | None = None,
    reward: Reward | None = None,
    judge: Reward | None = None,
    day: datetime.date | None = None,
) -> Path:
    """Trains, or finishes training, and returns the folder of the best model.

    reward: what GRPO or PPO optimises. judge: what it is watched with; it chooses nothing. day: for a template that
    asks for today's date, where neither the folder nor the model keeps one; None: today.
    """
    check_model_source(model, settings, method.role)
    asked = Asked(name, method, settings, data, model, tokenizer or model, out, cache or out / "reference", day)
    with holding(out):
        _run_held(asked, splits, reward, judge)
    return out / "best"


def _run_held(asked: Asked, splits: Splits | None, reward: Reward | None, judge: Reward | None) -> None:
    """In a folder that is ours."""
    name, data, model, out = asked.name, asked.data, asked.model, asked.out
    inputs = stage_inputs(name, asked.method, asked.settings, data, model, asked.tokenizer)
    scored_by = {"reward": reward, "judge": judge}
    inputs |= {part: one.signature for part, one in scored_by.items() if one is not None}
    # One process after the other, so that none finds a folder half claimed.
    with PartialState(cpu=on_cpu()).main_process_first():
        done = open_stage_folder(out, inputs, model=model)
    if done:
        check_finished(out, name)
        say(f"{name}: already done")
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # a kill may have come right before this
        (out / WARNINGS).unlink(missing_ok=True)
        return
    # Warnings of a run that goes on are its own; one without a checkpoint starts from nothing.
    with collected(out / WARNINGS, resumed=bool(Checkpoints(out / "checkpoints").steps())) as told:
        if changed := changed_model(model):
            warn(f"{name}: it starts from a model that was changed after its own stage: {changed}")
        _train(asked, splits or split_records(data), inputs, told, reward, judge)


@dataclass(frozen=True)
class Asked:
    """What a stage is asked for, and where its files go."""

    name: str
    method: type[StageMethod]
    settings: TrainingSettings
    data: DataSettings
    model: str
    tokenizer: str
    out: Path
    cache: Path
    day: datetime.date | None = None

    @property
    def sources(self) -> dict[str, str | None]:
        """What a model card names: the places of model, tokenizer and rows."""
        data = self.data
        return {
            "model": self.model, "tokenizer": self.tokenizer, "train": data.train, "validation": data.validation,
        }  # fmt: skip


def _train(
    asked: Asked,
    splits: Splits,
    inputs: dict[str, Any],
    told: Warnings,
    reward: Reward | None,
    judge: Reward | None,
) -> None:
    """From the rows to done.json."""
    method, data, model, out = asked.method, asked.data, asked.model, asked.out
    settings = asked.settings
    chat = dated(method.text_format(load_tokenizer(asked.tokenizer, settings), data, settings), out, asked)
    method.check_needs(settings, chat)
    expand = method.expansion(settings)
    train, train_counts = encode_records(splits.train, chat, method.completions_of(settings), expand)
    require_groups(train, train_counts, "training", data.train)
    wanted = validated(method, settings, splits)
    validation, validation_counts = encode_records(splits.validation, chat, wanted, expand)
    if not splits.validation and settings.patience is not None:
        warn("patience means nothing without validation rows: the run takes all its steps", about="patience")
    if splits.validation:
        require_groups(validation, validation_counts, "validation", data.validation or data.train)
    for split, found in (("training", train_counts), ("validation", validation_counts)):
        for about, line in remark_lines(found.remarks, data.control_tokens).items():
            warn(f"{split}: {line}", about=f"{split}: {about}")
    unread = without_read(method, reward, judge)
    counts = {"train": unread(train_counts), "validation": unread(validation_counts)}
    _say_what_was_left(asked.name, counts, splits, chat)
    write_json(out / "data.json", {**{part: one.model_dump() for part, one in counts.items()}, **splits.notes()})
    reset_peak_memory()
    settings = resolve_auto(out, settings)
    policy = method.load(model, settings)
    if isinstance(policy, Policy):
        stop_tokens(policy.model, chat)  # says so where it could never stop
    check_vocabulary(policy, train + validation, model)
    accelerator = make_accelerator(settings)
    context = TrainingContext(
        policy, train, validation, settings, accelerator, asked.cache, chat,
        splits.train, splits.validation, reward, judge,
    )  # fmt: skip
    write = partial(method.save, policy, chat)
    resumed = bool(Checkpoints(out / "checkpoints").steps())
    save = read_back_once(write, policy, chat, train, skip=0 if resumed else 1)
    if not resumed:
        if accelerator.is_main_process:
            rehearse(write, policy, chat, train, out)
            reset_peak_memory()  # training's is wanted
        accelerator.wait_for_everyone()
    made = method(settings, context)
    sample = _sampler(policy, chat, splits)
    loop = Loop(policy, made, made.training_groups(), settings, out, accelerator, save, sample, title=asked.name)
    finished = loop.run()
    if accelerator.is_main_process:
        changes = changes_of(out)
        known: dict[str, Any] = {"best_metric": loop.best_metric, "sources": asked.sources}
        known |= {"reward_changes": changes} if changes else {}
        mark_done(out, inputs_key(inputs), finished, settings, accelerator, told, known)
    accelerator.wait_for_everyone()


def dated(chat: Any, folder: Path, asked: Asked) -> Any:
    """The format with the day on which the stage began, or the model that it starts from was trained, where its
    template asks for today's."""
    if not getattr(chat, "asks_for_today", False):
        return chat
    with PartialState(cpu=on_cpu()).main_process_first():
        day = day_for(folder, day_of_model(asked.model), asked.day)
        keep_day(folder, day)
    return chat.with_day(day)


def without_read(method: type[StageMethod], *rewards: Reward | None) -> Callable[[SplitCounts], SplitCounts]:
    """Takes away what is read after all: by the method, or by a reward function."""

    def read(column: str) -> bool:
        return column in method.reads or any(one.reads(column) for one in rewards if one is not None)

    return lambda counts: counts.but_for(read)


def _say_what_was_left(name: str, counts: dict[str, SplitCounts], splits: Splits, chat: Any) -> None:
    """One line for each split of which something was dropped or not used."""
    for part, found in counts.items():
        if found.summary:
            say(f"{name}: {part}: {found.summary}")
    if splits.unreadable:
        n = len(splits.unreadable)
        warn(f"{n} rows could not be used and were left out; the first: {splits.unreadable[0]}", "unreadable rows")
    if unread := getattr(chat, "unread_values", []):
        warn(f"data.chat_template_kwargs: the chat template does not read {', '.join(unread)}", "template values")


def validated(method: type[StageMethod], settings: TrainingSettings, splits: Splits) -> CompletionsOf:
    """Which of a validation record's completions a method looks at."""
    wanted = method.validation_completions or method.completions_of(settings)
    has_pairs = all(record.is_pair for record in splits.validation)
    return wanted if wanted != "pair" or has_pairs or method.validation_completions is None else method.completions


def _sampler(policy: Any, chat: Any, splits: Splits) -> Callable[[], list[dict[str, str]]] | None:
    """How the stage's model is sampled while it trains."""

    def sample() -> list[dict[str, str]]:
        room = (getattr(policy.model.config, "max_position_embeddings", None) or 2**31) - SAMPLE_TOKENS
        records = splits.validation or splits.train
        fitting = (row.prompt for row, ids in renderable_prompts(records, chat) if len(ids) <= room)
        prompts = list(islice(fitting, SAMPLES))
        decoding = Decoding(max_new_tokens=SAMPLE_TOKENS)
        outs = generate(policy.model, chat, prompts, decoding, stop_tokens(policy.model, chat))
        shown = [prompt if isinstance(prompt, str) else prompt[-1].content for prompt in prompts]
        return [{"prompt": p, "completion": one.text} for p, one in zip(shown, outs, strict=True)]

    return sample if isinstance(policy, Policy) else None
