"""Standard tasks of one model, kept in its evaluation's folder: what is there for the same inputs stays.

tasks/NAME/    results.json (lm-eval's numbers), samples_TASK.jsonl.gz (every document, as lm-eval logs them; also
               for `trimtab compare`), inputs.json (what they are of)
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.data.chat import load_tokenizer
from trimtab.data.hashing import hash_content, hash_source
from trimtab.data.trust import TrustSettings
from trimtab.devices import best_device
from trimtab.errors import TrimtabError
from trimtab.evaluation.completeness import is_complete, mark_complete, only_say, others, warnings_of
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.settings import EvaluationTask
from trimtab.files import make_folder, read_json, write_file, write_json
from trimtab.folder_lock import holding
from trimtab.json_types import JsonObject, JsonValue
from trimtab.models.settings import resolve_precision
from trimtab.notices import collected, speaking_of
from trimtab.tasks import engine
from trimtab.tasks.installed import check_installed, version
from trimtab.tasks.scores import kept_scores
from trimtab.tasks.settings import TaskSettings

VERSION = 1
FOLDER, RESULTS, INPUTS = "tasks", "results.json", "inputs.json"
KEPT = ("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
"""What results.json holds of lm-eval's results."""


def with_template(asked: TaskSettings, tokenizer: str, trust: TrustSettings) -> TaskSettings:
    """The settings, in which chat_template says whether: where it said nothing, whether this tokenizer has one."""
    if asked.chat_template is not None:
        return asked
    has_template = bool(load_tokenizer(tokenizer, trust).chat_template)
    return asked.model_copy(update={"chat_template": has_template})


def check(asked: TaskSettings, out: Path, tokenizers: Mapping[str, str], trust: TrustSettings) -> None:
    """TrimtabError where a task cannot be asked: lm-eval is missing, no task is called so, its data are not to be
    had, or a model cannot be asked in turns. asked: of `with_template`. out: a study's folder, or an evaluation's;
    a task that was asked there before had its data. tokenizers: by whose they are."""
    check_installed(asked)
    if asked.chat_template:
        for who, tokenizer in tokenizers.items():
            if not load_tokenizer(tokenizer, trust).chat_template:
                raise TrimtabError(f"tasks: {who}'s tokenizer has no chat template: set tasks.chat_template=false.")
    before = {file.parent.name for file in out.glob(f"**/evaluation/*/{FOLDER}/*/{INPUTS}")}
    if new := [name for name in asked.names if name not in before]:
        engine.check_tasks(_expanded(asked), new)


def with_tasks(outputs: MethodOutputs, task: EvaluationTask, asked: TaskSettings | None) -> MethodOutputs:
    """The same outputs with the model's scores of the tasks, asked now or before. None: nothing is asked."""
    if asked is None:
        return outputs
    with holding(task.folder), speaking_of(f"tasks of {task.name}"):
        return _asked(outputs, task, _expanded(asked))


def _asked(outputs: MethodOutputs, task: EvaluationTask, asked: TaskSettings) -> MethodOutputs:
    model: engine.Asked | None = None
    warned: dict[str, str] = {}
    scores = []
    for name in asked.names:
        folder, inputs = task.folder / FOLDER / name, _inputs(task, asked, name)
        if not (is_complete(folder / INPUTS, inputs) and _data_are_the_same(folder)):
            _say_of_others(folder, inputs, task.replaces)
            with collected() as told:
                model = model or engine.Asked(task, asked)
                results = model.evaluate(name)
            (folder / INPUTS).unlink(missing_ok=True)
            mark_complete(folder / INPUTS, inputs, _write(folder, results), told.by_subject)
        else:
            task.report(f"{name}: already done")
        warned |= warnings_of(folder / INPUTS)
        scores += kept_scores(folder, name, asked.metrics.get(name))
    return replace(outputs, tasks=tuple(scores), warnings=[*outputs.warnings, *warned.values()])


def _expanded(asked: TaskSettings) -> TaskSettings:
    place = asked.include_path and str(Path(asked.include_path).expanduser())
    return asked.model_copy(update={"include_path": place})


def _say_of_others(folder: Path, inputs: JsonObject, replaces: bool) -> None:
    """TrimtabError, or a word, where the folder holds what was asked in another way."""
    if why := others(folder, inputs):
        if not replaces:
            raise TrimtabError(f"{folder}: was asked otherwise ({why}). Choose another --out, or --overwrite.")
        only_say(f"{folder}: was asked otherwise ({why}): it is asked anew")


def _inputs(task: EvaluationTask, asked: TaskSettings, name: str) -> JsonObject:
    """What a model's answers to a task depend on."""
    device = best_device()
    return {
        "version": VERSION,
        "task": name,
        "lm_eval": version(),
        "model": task.model_hash,
        "tokenizer": hash_source(task.tokenizer_source),
        "include_path": _hash_of_folder(Path(asked.include_path)) if asked.include_path else None,
        "limit": asked.limit,
        "num_fewshot": asked.num_fewshot,
        "chat_template": asked.chat_template,
        "chat_template_kwargs": dict(task.data.chat_template_kwargs),
        "max_new_tokens": asked.max_new_tokens,
        "batch_size": asked.batch_size,
        "precision": resolve_precision(task.settings.precision, device),
        "device": device.type,
    }


def _hash_of_folder(folder: Path) -> str:
    """Of every file below it, but for what Python leaves there of a task's own code."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(folder).as_posix()}\0{hash_content(file)}\0".encode())
    return digest.hexdigest()


def _write(folder: Path, results: JsonObject) -> list[str]:
    """Writes lm-eval's results and samples; returns the files' names."""
    make_folder(folder)
    names = []
    for task, samples in results["samples"].items():
        names.append(f"samples_{task}.jsonl.gz")
        lines = "".join(f"{_json(sample)}\n" for sample in samples).encode("utf-8", "surrogatepass")
        content = gzip.compress(lines, mtime=0)
        write_file(folder / names[-1], lambda aside, content=content: aside.write_bytes(content))  # type: ignore[misc]
    kept = {part: results[part] for part in KEPT if part in results}
    files = {str(file): hash_content(file) for file in sorted(_data_files(kept["configs"]))}
    write_json(folder / RESULTS, json.loads(_json(kept | {"files": files})))
    return [*names, RESULTS]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    """What JSON has of numpy's numbers, of sets, and of a task's functions."""
    if isinstance(value, np.generic):
        return value.item()
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)


def _data_files(configs: Any) -> set[Path]:
    """The files on this machine that tasks name as their data."""
    named = [source for config in configs.values() for source in _texts([
        (config.get("dataset_kwargs") or {}).get("data_files"), config.get("dataset_path"),
    ])]  # fmt: skip
    return {path.resolve() for path in map(Path, named) if path.is_file()}


def _texts(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(item)


def _data_are_the_same(folder: Path) -> bool:
    """Whether the files that the task was read from hold what they held; those that are gone are not asked for."""
    files = read_json(folder / RESULTS, f"Remove {folder}.").get("files", {})
    changed = [name for name, was in files.items() if Path(name).is_file() and hash_content(Path(name)) != was]
    if changed:
        only_say(f"{changed[0]}: the task's data changed: it is asked anew")
    return not changed
