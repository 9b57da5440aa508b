"""A stage: one method, one model, one data set, one folder.

    STAGE/stage.json     what the folder is for: the hash of all inputs
          data.json      what became of the rows
          settled.json   what `auto` chose, kept on resume
          metrics.jsonl  samples.jsonl  checkpoints/
          best/          a plain Hugging Face folder
          done.json      written last

A stage whose done.json has the same hash is skipped; one that was killed goes on where it was; a folder
of other inputs is refused.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import transformers
from accelerate import Accelerator, PartialState
from torch import Tensor

from trimtab import __version__
from trimtab.data.chat import ChatFormat, agree_on_special_tokens, load_tokenizer
from trimtab.data.groups import CompletionGroup, PackedBatch
from trimtab.data.hashing import hash_source
from trimtab.data.records import Record
from trimtab.data.splits import (
    CompletionsOf,
    DataSettings,
    Expansion,
    Splits,
    encode_records,
    require_groups,
    split_records,
)
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import Decoding, generate, stop_tokens
from trimtab.models.length_encoding import refuse_countdown
from trimtab.models.lora import ADAPTER, hash_model
from trimtab.models.policy import Policy, check_model_source, load_policy, resolve_precision
from trimtab.models.reference import ReferenceLogps, reference_key, reference_logps
from trimtab.rewards.base import Reward
from trimtab.rewards.settings import without_asking
from trimtab.training.card import CARD, stage_card
from trimtab.training.checkpoint import write_json
from trimtab.training.loop import (
    EvaluateGroups,
    Finished,
    Loop,
    evaluate_groups,
    make_accelerator,
)
from trimtab.training.method import OfflineMethod, Sums
from trimtab.training.peak import peak_memory, reset_peak_memory
from trimtab.training.progress import console
from trimtab.training.schedule import TrainingSettings

SAMPLES, SAMPLE_TOKENS = 4, 128


@dataclass
class Prepared:
    """What a method may need of its stage, made before the method is.

    records: where the index of a group of the split points. stops: every token that ends a completion.
    """

    policy: Any
    train: list[CompletionGroup]
    validation: list[CompletionGroup]
    settings: TrainingSettings
    accelerator: Accelerator
    cache: Path
    chat: Any = None
    train_records: Sequence[Record] = ()
    validation_records: Sequence[Record] = ()
    reward: Reward | None = None
    judge: Reward | None = None

    def __post_init__(self) -> None:
        self.policy.to(self.accelerator.device)

    @property
    def stops(self) -> list[int]:
        return stop_tokens(self.policy.model, self.chat)

    def evaluate(self, one_pass: EvaluateGroups, policy: Callable[..., Any]) -> dict[str, float]:
        return evaluate_groups(one_pass, policy, self.validation, self.settings.token_budget, self.accelerator)

    def reference_logps(self, groups: Sequence[CompletionGroup]) -> ReferenceLogps:
        """The starting model's log-probabilities of every group; cached on disk."""
        condition = f"{self.settings.precision}|{self.accelerator.device.type}"
        key = reference_key(self.policy.starting_state(), condition + self.policy.countdown_key)
        if self.accelerator.is_main_process:
            console.print(f"reference: log-probabilities of {len(groups)} groups", highlight=False)
        self.policy.eval()
        # The main process computes and stores; the others read.
        with self.accelerator.autocast(), self.accelerator.main_process_first():
            found = reference_logps(
                self.policy, groups, self.cache, key, self.settings.token_budget, self.accelerator.device
            )
        return {id(group): logps for group, logps in zip(groups, found, strict=True)}


class StageMethod(OfflineMethod, ABC):
    """A method (see loop.Method) with what a stage must know of it before it is made."""

    completions: ClassVar[CompletionsOf]
    """Which of a record's completions it trains on."""
    validation_completions: ClassVar[CompletionsOf | None] = None
    """Which it is validated on, where the data has them; None: the same."""
    version: ClassVar[int]
    """Raised when a change of code changes results: stages done by the old one are done again."""
    best_metric: str
    best_is: Literal["highest", "lowest"]

    def __init__(self, settings: Any, prepared: Prepared) -> None:
        self.settings, self.prepared = settings, prepared

    @classmethod
    def completions_of(cls, settings: Any) -> CompletionsOf:
        """Which of a record's completions these settings train on."""
        return cls.completions

    @classmethod
    def load(cls, source: str, settings: TrainingSettings) -> Any:
        """The model to train. TrimtabError for one that counts down, which a method must know how to carry on."""
        policy = load_policy(source, settings, settings.seed)
        refuse_countdown(policy.model.config, source)
        return policy

    @classmethod
    def save(cls, policy: Any, chat: Any, folder: Path) -> None:
        """Writes a plain Hugging Face folder."""
        agree_on_special_tokens(chat, policy.model)
        chat.tokenizer.save_pretrained(folder)
        policy.save(folder)
        if (folder / ADAPTER).is_dir():
            chat.tokenizer.save_pretrained(folder / ADAPTER)

    @classmethod
    def text_format(cls, tokenizer: Any, data: DataSettings, settings: Any) -> Any:
        """How its records become token ids; its tokenizer is saved with the model."""
        return ChatFormat(tokenizer, data)

    @classmethod
    def expansion(cls, settings: Any) -> Expansion | None:
        """What these settings make of a record before it is encoded; None: it stays as it is."""
        return None

    def training_groups(self) -> Sequence[CompletionGroup]:
        """What an epoch goes over."""
        return self.prepared.train

    @abstractmethod
    def total(self, groups: Sequence[CompletionGroup]) -> float: ...

    @abstractmethod
    def loss(self, policy: Callable[..., Any], batch: PackedBatch, total: float) -> tuple[Tensor, Sums]: ...

    @abstractmethod
    def evaluate_pass(self, policy: Callable[..., Any], batch: PackedBatch) -> Sums: ...

    def evaluate(self, policy: Callable[..., Any]) -> dict[str, float]:
        return self.prepared.evaluate(self.evaluate_pass, policy)


def stage_inputs(
    name: str, method: type[StageMethod], settings: TrainingSettings, data: DataSettings, model: str, tokenizer: str
) -> dict[str, Any]:
    """Everything that the result depends on."""
    sources = [s for s in (data.train, data.validation) if s]
    training = data.model_dump(exclude={"test", "test_split"} if data.test else set())
    for part in ("train", "validation", "test"):
        training.pop(part, None)
    return {
        "stage": name,
        "version": method.version,
        "settings": without_asking(settings.model_dump()),
        "data": training,
        "data_hashes": [hash_source(source, nested=True) for source in sources],
        "model": hash_model(model),
        "tokenizer": hash_source(tokenizer),
    }


def inputs_key(inputs: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(inputs, sort_keys=True).encode(), digest_size=16).hexdigest()


def claim(folder: Path, inputs: dict[str, Any], begun: str = "metrics.jsonl") -> bool:
    """Takes the folder for these inputs. True when the stage is already done; an error for others'.

    begun: what is in the folder once something was done for its inputs.
    """
    inputs = json.loads(json.dumps(inputs))  # as they read back: lists for tuples
    key = inputs_key(inputs)
    file = folder / "stage.json"
    theirs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    began = (folder / begun).exists()
    if theirs and began:
        if theirs["key"] != key:
            raise TrimtabError(f"{folder}: holds another run ({difference(theirs, inputs)}). {ELSEWHERE}")
    elif theirs is None and folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise TrimtabError(f"{folder}: is not empty, and not a folder of trimtab's. {ELSEWHERE}")
    else:  # new, or claimed by a run that found a mistake in its inputs before it began
        folder.mkdir(parents=True, exist_ok=True)
        if theirs and theirs["key"] != key:
            (folder / "settled.json").unlink(missing_ok=True)
        write_json(file, {"key": key, "trimtab": __version__, **inputs})
    done = folder / "done.json"
    return done.is_file() and json.loads(done.read_text(encoding="utf-8"))["key"] == key


ELSEWHERE = "Choose another output folder, or remove this one."


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Names what differs, down to the setting."""
    names = []
    for part, value in ours.items():
        other = theirs.get(part)
        if isinstance(value, dict) and isinstance(other, dict):
            names += [f"{part}.{k}" for k in value if value[k] != other.get(k)]
        elif value != other:
            names.append(part)
    return "its " + ", ".join(names) + " differ" if names else "its inputs differ"


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
) -> Path:
    """Trains, or finishes training, and returns the folder of the best model.

    reward: what GRPO or PPO optimises. judge: what it is watched with; it chooses nothing.
    """
    check_model_source(model, settings)
    inputs = stage_inputs(name, method, settings, data, model, tokenizer or model)
    scored_by = {"reward": reward, "judge": judge}
    inputs |= {part: one.signature for part, one in scored_by.items() if one is not None}
    # One process after the other, so that none finds a folder half claimed.
    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        done = claim(out, inputs)
    if done:
        console.print(f"{name}: already done", highlight=False)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # a kill may have come right before this
        return out / "best"
    chat = method.text_format(load_tokenizer(tokenizer or model, settings), data, settings)
    expand = method.expansion(settings)
    splits = splits or split_records(data)
    train, train_counts = encode_records(splits.train, chat, method.completions_of(settings), expand)
    require_groups(train, train_counts, "training", data.train)
    wanted = validated(method, settings, splits)
    validation, validation_counts = encode_records(splits.validation, chat, wanted, expand)
    if splits.validation:
        require_groups(validation, validation_counts, "validation", data.validation or data.train)
    counts = {"train": train_counts.model_dump(), "validation": validation_counts.model_dump()}
    write_json(out / "data.json", {**counts, **splits.notes()})
    reset_peak_memory()
    settings = settle(out, settings)
    policy = method.load(model, settings)
    check_vocabulary(policy, train + validation, model)
    accelerator = make_accelerator(settings)
    prepared = Prepared(
        policy, train, validation, settings, accelerator, cache or out / "reference", chat,
        splits.train, splits.validation, reward, judge,
    )  # fmt: skip
    made = method(settings, prepared)
    save, sample = _writers(method, policy, chat, splits)
    loop = Loop(policy, made, made.training_groups(), settings, out, accelerator, save, sample, title=name)
    finished = loop.run()
    if accelerator.is_main_process:
        sources = {
            "model": model, "tokenizer": tokenizer or model, "train": data.train, "validation": data.validation,
        }  # fmt: skip
        chosen_by = {"best_metric": loop.best_metric, "sources": sources}
        _mark_done(out, inputs, finished, settings, accelerator, chosen_by)
    accelerator.wait_for_everyone()
    return out / "best"


def validated(method: type[StageMethod], settings: TrainingSettings, splits: Splits) -> CompletionsOf:
    """Which of a validation record's completions a method looks at."""
    wanted = method.validation_completions or method.completions_of(settings)
    has_pairs = all(record.is_pair for record in splits.validation)
    return wanted if wanted != "pair" or has_pairs or method.validation_completions is None else method.completions


def _writers(
    method: type[StageMethod], policy: Any, chat: Any, splits: Splits
) -> tuple[Callable[[Path], None], Callable[[], list[dict[str, str]]] | None]:
    """How the stage's model is saved, and how it is sampled while it trains."""

    def save(folder: Path) -> None:
        method.save(policy, chat, folder)

    def sample() -> list[dict[str, str]]:
        room = (getattr(policy.model.config, "max_position_embeddings", None) or 2**31) - SAMPLE_TOKENS
        records = splits.validation or splits.train
        fitting = (r.prompt for r in records if len(chat.prompt_ids(r.prompt)) <= room)
        prompts = list(islice(fitting, SAMPLES))
        decoding = Decoding(max_new_tokens=SAMPLE_TOKENS)
        outs = generate(policy.model, chat, prompts, decoding, stop_tokens(policy.model, chat))
        shown = [prompt if isinstance(prompt, str) else prompt[-1].content for prompt in prompts]
        return [{"prompt": p, "completion": one.text} for p, one in zip(shown, outs, strict=True)]

    return save, sample if isinstance(policy, Policy) else None


def _mark_done(
    out: Path,
    inputs: dict[str, Any],
    finished: Finished,
    settings: TrainingSettings,
    acc: Accelerator,
    known: dict[str, Any],
) -> None:
    """Writes the model's card, then done.json, the last. known: what the run knows beside how it ended."""
    done = {
        "key": inputs_key(inputs),
        **vars(finished),
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "device": str(acc.device),
        "processes": acc.num_processes,
        "peak_memory_bytes": peak_memory(acc.device),
        "python": platform.python_version(),
        "versions": {"trimtab": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        **known,
    }
    (out / "best" / CARD).write_text(stage_card(out, done), encoding="utf-8")
    write_json(out / "done.json", done)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def settle(folder: Path, settings: TrainingSettings) -> TrainingSettings:
    """Settings with every `auto` decided; the decision is kept in settled.json, so that a resumed run keeps it."""
    file = folder / "settled.json"
    if not file.is_file():
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = resolve_precision(settings.precision, device)
        write_json(file, {"precision": precision, "threads": torch.get_num_threads()})
    settled = json.loads(file.read_text(encoding="utf-8"))
    torch.set_num_threads(settled["threads"])
    return settings.model_copy(update={"precision": settled["precision"]})


def check_vocabulary(policy: Policy, groups: Sequence[CompletionGroup], model: str) -> None:
    """TrimtabError where the tokenizer's ids, or the rows' lengths, are more than the model has."""
    top = max(max(map(max, (*g.prompts, *g.completions))) for g in groups)
    entries = int(policy.model.get_input_embeddings().weight.shape[0])
    if top >= entries:
        raise TrimtabError(
            f"model {model}: the tokenizer gives token {top}, but the model has {entries} embeddings. "
            "They do not belong together: name the right tokenizer."
        )
    longest = max(group.longest for group in groups)
    positions = getattr(policy.model.config, "max_position_embeddings", None)
    if positions is not None and longest - 1 > positions:
        raise TrimtabError(
            f"model {model}: takes {positions} positions, but a row has {longest} tokens. "
            f"Set max_length to at most {positions}."
        )
