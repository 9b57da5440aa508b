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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from accelerate import PartialState

from trimtab.data.adapters import tokenizer_source
from trimtab.data.answerable import renderable_prompts
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.day import day_for, day_of_model, keep_day
from trimtab.data.encoding import remark_lines
from trimtab.data.hashing import hash_source
from trimtab.data.split_groups import CompletionsOf, SplitCounts, encode_records, require_groups
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.devices import keep_freed_memory, on_cpu, reset_peak_memory
from trimtab.evaluation.generate import generate, stop_tokens
from trimtab.evaluation.settings import Decoding
from trimtab.files import write_json
from trimtab.folder_lock import holding
from trimtab.json_types import JsonObject
from trimtab.models.gguf.place import origin_of
from trimtab.models.kinds import check_model_source
from trimtab.models.lora import hash_model
from trimtab.models.policy import Policy
from trimtab.models.vocabulary import check_vocabulary
from trimtab.notices import Warnings, collected, say, warn
from trimtab.rewards.base import Reward
from trimtab.rewards.settings import without_asking
from trimtab.training.accelerator import make_accelerator
from trimtab.training.callbacks import Callback, callbacks_of, check_trackers
from trimtab.training.changed import changes_of
from trimtab.training.checkpoint import Checkpoints
from trimtab.training.difficulty import check_order, draws_of
from trimtab.training.ending import WARNINGS, mark_done
from trimtab.training.folder import changed_model, check_finished, inputs_key, open_stage_folder, resolve_auto
from trimtab.training.judging import judged_answers
from trimtab.training.loop import Loop
from trimtab.training.round_trip import read_back_once, rehearse
from trimtab.training.schedule import TrainingSettings
from trimtab.training.stage_method import AnyMethod, TextFormat, TrainedModel, TrainingContext
from trimtab.training.weights import weights_of

SAMPLES, SAMPLE_TOKENS = 4, 128


def stage_inputs(
    name: str, method: AnyMethod, settings: TrainingSettings, data: DataSettings, model: str, tokenizer: str
) -> JsonObject:
    """Everything that the result of a stage depends on, as stage.json keeps it."""
    sources = [s for s in (data.train, data.validation) if s]
    training = data.model_dump(exclude={"test", "test_split"} if data.test else set())
    for part in ("train", "validation", "test", *_unset(data)):
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


def _unset(data: DataSettings) -> list[str]:
    """Settings that are in no key where they are not given: folders of earlier versions know nothing of them."""
    return [name for name in ("limit", "split_by") if getattr(data, name) is None]


def run_stage(
    name: str,
    method: AnyMethod,
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
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Trains, or finishes training, and returns the folder of the best model.

    reward: what GRPO or PPO optimises. judge: what it is watched with; it chooses nothing. day: for a template that
    asks for today's date, where neither the folder nor the model keeps one; None: today. callbacks: who else sees
    the rows of metrics, beside the trackers that the settings name.
    """
    check_model_source(model, settings, method.role)
    check_trackers(settings.trackers)
    keep_freed_memory()
    request = StageRequest(
        name, method, settings, data, model, tokenizer or model, out, cache or out / "reference",
        cache or out / "prepared", day, callbacks,
    )  # fmt: skip
    with holding(out):
        _run_held(request, splits, reward, judge)
    return out / "best"


def _run_held(request: StageRequest, splits: Splits | None, reward: Reward | None, judge: Reward | None) -> None:
    """Runs the stage in a folder that this process holds."""
    name, data, model, out = request.name, request.data, request.model, request.out
    inputs = stage_inputs(name, request.method, request.settings, data, model, request.tokenizer)
    scored_by = {"reward": reward, "judge": judge}
    inputs |= {part: scorer.signature for part, scorer in scored_by.items() if scorer is not None}
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
    with collected(out / WARNINGS, resumed=bool(Checkpoints(out / "checkpoints").steps())) as run_warnings:
        if changed := changed_model(model):
            warn(f"{name}: it starts from a model that was changed after its own stage: {changed}")
        _train(request, splits or split_once(data, request.prepared), inputs, run_warnings, reward, judge)


def split_once(data: DataSettings, cache: Path) -> Splits:
    """The rows of each split. What is kept of large sources in `cache` the first of several processes writes."""
    with PartialState(cpu=on_cpu()).main_process_first():
        return split_records(data, cache)


@dataclass(frozen=True)
class StageRequest:
    """What a stage is asked for, and where its files go."""

    name: str
    method: AnyMethod
    settings: TrainingSettings
    data: DataSettings
    model: str
    tokenizer: str
    out: Path
    cache: Path
    prepared: Path
    day: datetime.date | None = None
    callbacks: Sequence[Callback] = ()

    @property
    def sources(self) -> dict[str, str | None]:
        """What a model card names: the places of model, tokenizer and rows, and how a GGUF file held the model."""
        data, gguf = self.data, origin_of(self.model)
        return {
            "model": self.model, "tokenizer": self.tokenizer, "train": data.train, "validation": data.validation,
            **({"gguf": gguf} if gguf else {}),
        }  # fmt: skip


def _train(
    request: StageRequest,
    splits: Splits,
    inputs: JsonObject,
    run_warnings: Warnings,
    reward: Reward | None,
    judge: Reward | None,
) -> None:
    """From the rows to done.json."""
    method, data, model, out = request.method, request.data, request.model, request.out
    settings = request.settings
    chat = with_day(method.text_format(load_tokenizer(request.tokenizer, settings), data, settings), out, request)
    method.check_needs(settings, chat)
    check_order(request.name, method, settings, splits.train)
    expand = method.expansion(settings)
    with PartialState(cpu=on_cpu()).main_process_first():  # which keeps what there is much of
        train, train_counts = encode_records(splits.train, chat, method.completions_of(settings), expand)
        require_groups(train, train_counts, "training", data.train)
        validation_completions = validated_completions(method, settings, splits)
        validation, validation_counts = encode_records(splits.validation, chat, validation_completions, expand)
    if not splits.validation and settings.patience is not None:
        warn("patience means nothing without validation rows: the run takes all its steps", about="patience")
    if splits.validation:
        require_groups(validation, validation_counts, "validation", data.validation or data.train)
    for split, encoded in (("training", train_counts), ("validation", validation_counts)):
        for about, line in remark_lines(encoded.remarks, data.control_tokens).items():
            warn(f"{split}: {line}", about=f"{split}: {about}")
    unread = without_read(method, reward, judge)
    counts = {"train": unread(train_counts), "validation": unread(validation_counts)}
    _say_dropped_rows(request.name, counts, splits, chat)
    write_json(out / "data.json", {**{part: rows.model_dump() for part, rows in counts.items()}, **splits.notes()})
    reset_peak_memory()
    settings = resolve_auto(out, settings, model)
    policy: TrainedModel = method.load(model, settings)
    if isinstance(policy, Policy) and isinstance(chat, ChatFormat):
        stop_tokens(policy.model, chat)  # says so where it could never stop
    check_vocabulary(policy, [train, validation], model)
    accelerator = make_accelerator(settings)
    context: TrainingContext[TrainedModel, TextFormat] = TrainingContext(
        policy, train, validation, settings, accelerator, request.cache, chat,
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
    trained = method(settings, context)
    sample = _sampler(policy, chat, splits)
    own = hasattr(settings, "validation_prompts")  # answers that the method asks the judge about itself
    judged = None
    if settings.chosen_by_judge and not own and isinstance(policy, Policy) and isinstance(chat, ChatFormat):
        judged = judged_answers(request.name, policy, chat, splits.validation, settings, judge)
    groups = trained.training_groups()
    draws = draws_of(request.name, trained, groups, settings, context)
    shown = settings.model_dump(mode="json") | {"method": request.name, "model": request.model}
    trackers = callbacks_of(settings.trackers, out, shown) if accelerator.is_main_process else []
    loop = Loop(
        policy, trained, groups, settings, out, accelerator, save, sample, request.name, draws,
        [*trackers, *request.callbacks], judged, weights_of(policy, settings, accelerator),
    )  # fmt: skip
    finished = loop.run()
    if accelerator.is_main_process:
        changes = changes_of(out)
        facts: JsonObject = {"best_metric": loop.best_metric, "sources": request.sources}
        facts |= {"reward_changes": changes} if changes else {}
        mark_done(out, inputs_key(inputs), finished, settings, accelerator, run_warnings, facts)
    accelerator.wait_for_everyone()


def with_day(chat: TextFormat, folder: Path, request: StageRequest) -> TextFormat:
    """The format with the day on which the stage began, or the model that it starts from was trained, where its
    template asks for today's."""
    if not isinstance(chat, ChatFormat) or not chat.asks_for_today:
        return chat
    with PartialState(cpu=on_cpu()).main_process_first():
        day = day_for(folder, day_of_model(request.model), request.day)
        keep_day(folder, day)
    return chat.with_day(day)


def without_read(method: AnyMethod, *rewards: Reward | None) -> Callable[[SplitCounts], SplitCounts]:
    """Takes the columns out of a split's counts that are read after all: by the method, or by a reward function."""

    def read(column: str) -> bool:
        return column in method.reads or any(reward.reads(column) for reward in rewards if reward is not None)

    return lambda counts: counts.but_for(read)


def _say_dropped_rows(name: str, counts: dict[str, SplitCounts], splits: Splits, chat: TextFormat) -> None:
    """One line for each split of which something was dropped or not used."""
    for part, rows in counts.items():
        if rows.summary:
            say(f"{name}: {part}: {rows.summary}")
    if splits.unreadable:
        n = len(splits.unreadable)
        warn(f"{n} rows could not be used and were left out; the first: {splits.unreadable[0]}", "unreadable rows")
    if unread := getattr(chat, "unread_values", []):
        warn(f"data.chat_template_kwargs: the chat template does not read {', '.join(unread)}", "template values")


def validated_completions(method: AnyMethod, settings: TrainingSettings, splits: Splits) -> CompletionsOf:
    """Which of a validation record's completions a method looks at."""
    preferred = method.validation_completions or method.completions_of(settings)
    has_pairs = all(record.is_pair for record in splits.validation)
    if preferred != "pair" or has_pairs or method.validation_completions is None:
        return preferred
    return method.completions


def _sampler(policy: TrainedModel, chat: TextFormat, splits: Splits) -> Callable[[], list[dict[str, str]]] | None:
    """How the stage's model is sampled while it trains; None for a reward model."""
    if not isinstance(policy, Policy) or not isinstance(chat, ChatFormat):
        return None

    def sample() -> list[dict[str, str]]:
        room = (getattr(policy.model.config, "max_position_embeddings", None) or 2**31) - SAMPLE_TOKENS
        records = splits.validation or splits.train
        fitting = (row.prompt for row, ids in renderable_prompts(records, chat) if len(ids) <= room)
        prompts = list(islice(fitting, SAMPLES))
        decoding = Decoding(max_new_tokens=SAMPLE_TOKENS)
        outs = generate(policy, chat, prompts, decoding, stop_tokens(policy.model, chat))
        shown = [prompt if isinstance(prompt, str) else prompt[-1].content for prompt in prompts]
        return [{"prompt": p, "completion": out.text} for p, out in zip(shown, outs, strict=True)]

    return sample
