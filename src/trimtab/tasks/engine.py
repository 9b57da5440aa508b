"""lm-eval's engine, on a model as trimtab loads it. The only file that imports lm_eval.

Questions, few-shot examples, filters and metrics are lm-eval's own, and so is the model class (HFLM); what is
trimtab's is how weights and tokenizer are read: adapters, GGUF files and starters of the sandbox are asked alike.
"""

from __future__ import annotations

import difflib
import logging
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.day import day_for, day_of_model, keep_day
from trimtab.data.template_features import with_date
from trimtab.devices import best_device, forked_random
from trimtab.errors import TrimtabError, reason_of
from trimtab.evaluation.generate import stop_tokens
from trimtab.evaluation.settings import EvaluationTask
from trimtab.json_types import JsonObject
from trimtab.models.loading import load_policy
from trimtab.models.settings import resolve_precision, trusting
from trimtab.models.vocabulary import check_tokenizer
from trimtab.notices import warn
from trimtab.progress import Progress
from trimtab.tasks.settings import TaskSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEED, OTHER_SEED = 0, 1234
"""lm-eval's own: of Python's random numbers; of numpy's, torch's and the choice of examples."""


def check_tasks(asked: TaskSettings, names: Sequence[str]) -> None:
    """TrimtabError where one of these names is no task, or its data cannot be loaded."""
    for name in names:
        _load(asked, name)


def _manager(include_path: str | None, with_lm_evals: bool) -> Any:
    """An index of tasks. All of lm-eval's own take seconds to read, which is done once."""
    files = sorted(Path(include_path).rglob("*.yaml")) if include_path is not None else []
    return _index(include_path, with_lm_evals, tuple((str(file), file.stat().st_mtime_ns) for file in files))


@cache
def _index(include_path: str | None, with_lm_evals: bool, state: tuple[tuple[str, int], ...]) -> Any:
    """state: of the user's task files, which may change between two questions."""
    _quiet()
    from lm_eval.tasks import TaskManager

    if not with_lm_evals:
        return TaskManager(include_path=include_path, include_defaults=False)
    with Progress("reading lm-eval's tasks", None):
        return TaskManager(include_path=include_path)


def _quiet() -> None:
    if not os.environ.get("TRIMTAB_DEBUG"):
        logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _load(asked: TaskSettings, name: str) -> Any:
    """A task with its documents, or a group with those of its tasks, by lm-eval's names. Its own tasks are looked
    into only where the user's do not do."""
    if asked.include_path is not None:
        own = _manager(asked.include_path, with_lm_evals=False)
        if name in own.all_tasks:
            with suppress(Exception):  # a group of lm-eval's tasks, or one that the second try says is wrong
                return own.load([name])
    known = _manager(asked.include_path, with_lm_evals=True)
    if name not in known.all_tasks:
        near = difflib.get_close_matches(name, known.all_tasks, n=1)
        where = f", nor has {asked.include_path}" if asked.include_path else ""
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TrimtabError(f"tasks: lm-eval has no task {name!r}{where}.{hint}")
    try:
        with Progress(f"loading task {name}", None):
            return known.load([name])
    except Exception as error:  # of the task's file, its own code, or the hub
        raise TrimtabError(f"task {name}: cannot be loaded: {reason_of(error)}") from error


class Asked:
    """A loaded model, to be asked one task after another.

    task: whose model it is. TrimtabError where it cannot be asked in this way.
    """

    def __init__(self, task: EvaluationTask, asked: TaskSettings) -> None:
        _quiet()
        from lm_eval.models.huggingface import HFLM

        self.asked, self.device = asked, best_device()
        chat = ChatFormat(load_tokenizer(task.tokenizer_source, task.settings), task.data)
        policy = load_policy(task.model, trusting(task.settings))
        policy.to(self.device).eval()
        check_tokenizer(chat.tokenizer, policy.model, f"model {task.model}")
        if policy.inputs.encoding is not None:
            warn("its length encoding is not fed in standard tasks", about="length encoding in tasks")
        model = policy.model
        model.set_attn_implementation("sdpa")
        if asked.chat_template:
            model.generation_config.eos_token_id = stop_tokens(model, chat)
        bf16 = resolve_precision(task.settings.precision, self.device) == "bf16"
        self.lm = HFLM(
            pretrained=model,
            tokenizer=_dated(chat, task) if asked.chat_template else chat.tokenizer,
            backend="causal",
            batch_size=asked.batch_size,
            mixed_precision_dtype=torch.bfloat16 if bf16 else None,
            softmax_dtype=torch.float32,
            chat_template_args=dict(task.data.chat_template_kwargs),
        )
        for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):  # `_counted` says how far it is
            setattr(self.lm, kind, partial(getattr(self.lm, kind), disable_tqdm=True))

    def evaluate(self, name: str) -> JsonObject:
        """What lm-eval's evaluate gives for one of its tasks or groups, with every document's sample. The caller's
        random numbers are left as they were."""
        from lm_eval.evaluator import evaluate

        loaded = _load(self.asked, name)
        for task in loaded["tasks"].values():
            _configure(task, self.asked)
        chat = bool(self.asked.chat_template)
        try:
            with _lm_evals_seeds(self.device), self._counted(name):
                results = evaluate(
                    self.lm,
                    loaded,
                    limit=self.asked.limit,
                    bootstrap_iters=0,
                    log_samples=True,
                    apply_chat_template=chat,
                    fewshot_as_multiturn=chat,
                    confirm_run_unsafe_code=self.asked.run_code,
                )
        except Exception as error:  # of the task's own code, or the model's
            hint = ". Set tasks.run_code=true to let it run." if "unsafe" in str(error) else ""
            raise TrimtabError(f"task {name}: {reason_of(error)}{hint}") from error
        return dict(results)

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        """Says how many requests are answered; lm-eval tells its cache of each."""
        with Progress(f"task {name}", None, "requests") as progress:

            class Hook:
                def add_partial(self, attr: str, req: Iterable[Any], res: Any) -> None:
                    progress.advance()

            self.lm.set_cache_hook(Hook())
            yield


def _configure(task: Any, asked: TaskSettings) -> None:
    """What is set for all tasks, as lm-eval's simple_evaluate does it: a task that says 0 examples keeps 0."""
    own = task.get_config("num_fewshot")
    if own != 0:
        task.set_config(key="num_fewshot", value=asked.num_fewshot if asked.num_fewshot is not None else own or 0)
    task.set_fewshot_seed(seed=OTHER_SEED)
    if asked.max_new_tokens is not None and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value={"max_gen_toks": asked.max_new_tokens}, update=True)


@contextmanager
def _lm_evals_seeds(device: torch.device) -> Iterator[None]:
    before, arrays = random.getstate(), np.random.get_state()
    with forked_random(device):
        random.seed(SEED)
        np.random.seed(OTHER_SEED)
        torch.manual_seed(OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(arrays)


def _dated(chat: ChatFormat, task: EvaluationTask) -> PreTrainedTokenizerBase:
    """The tokenizer, whose template is given the evaluation's day where it asks for today's."""
    if not chat.asks_for_today:
        return chat.tokenizer
    day = day_for(task.folder, day_of_model(task.model), task.day)
    keep_day(task.folder, day)
    chat.tokenizer.chat_template = with_date(str(chat.tokenizer.get_chat_template()), day)
    return chat.tokenizer
