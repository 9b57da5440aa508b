"""What is measured of one model: completions of the test prompts, their scores, and its fluency.

Everything lands in a folder of its own, and what is there already for the same inputs is not done again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from trimtab.data.hashing import hash_source
from trimtab.data.records import Record
from trimtab.errors import TrimtabError
from trimtab.evaluation.arriving import arrived
from trimtab.evaluation.asked import write_asked
from trimtab.evaluation.complete import complete, evaluation_device
from trimtab.evaluation.completeness import (
    had_another_judge,
    is_complete,
    mark_complete,
    only_say,
    others,
    warnings_of,
)
from trimtab.evaluation.outputs import (
    PREFERENCES,
    SCORES,
    Generation,
    MethodOutputs,
    read_generations,
    read_measured,
    read_scores,
)
from trimtab.evaluation.scoring import judge_completions
from trimtab.evaluation.settings import EvaluationSettings as EvaluationSettings  # where scripts look for it
from trimtab.evaluation.settings import EvaluationTask
from trimtab.files import clear_leftovers
from trimtab.folder_lock import holding
from trimtab.json_types import JsonObject
from trimtab.notices import collected, speaking_of
from trimtab.rewards.base import Reward
from trimtab.rewards.function import FunctionReward

VERSION = 4


def measure(task: EvaluationTask) -> MethodOutputs:
    """Generates, scores and measures, or reads what an earlier run left.

    Completions have a mark of their own, so a run that was stopped while a slow judge scored, or that has
    another judge, does not generate them again. Scores that a server failed to give are asked for anew.
    """
    with holding(task.folder), speaking_of(f"evaluation of {task.name}"):
        return _measure_held(task)


def _measure_held(task: EvaluationTask) -> MethodOutputs:
    folder, inputs = task.folder, _inputs(task)
    if (folder / "generations.jsonl").exists():  # a folder of ours
        clear_leftovers(folder)
    _say_of_others(folder, inputs, task.replaces)
    write_asked(folder, task.test)
    finished = is_complete(folder / "inputs.json", inputs)
    asks_again = finished and task.scorer is not None and task.scorer.asks_server
    missing = asks_again and any(s.score is None for s in read_scores(folder / _scores_file(task)))
    if finished and not missing:
        task.report("already done")
        return _read(task)
    generated = {key: value for key, value in inputs.items() if key != "judge"}
    if not finished:
        # What the marks stand for is about to be replaced.
        (folder / "inputs.json").unlink(missing_ok=True)
        if not (is_complete(folder / "generated.json", generated) and _has_measures(folder)):
            (folder / "generated.json").unlink(missing_ok=True)
            with collected() as told:
                complete(task, generated)
            mark_complete(folder / "generated.json", generated, ["generations.jsonl"], told.by_subject)
        arrived(folder)
    files, warned = ["generations.jsonl", "measures.json"], warnings_of(folder / "generated.json")
    if task.scorer is not None:
        (folder / (SCORES if task.scorer.compares else PREFERENCES)).unlink(missing_ok=True)  # another judge's
        with collected() as told:
            judge_completions(task.scorer, task.test, folder, task.opponent or ())
        files.append(_scores_file(task))
        warned |= told.by_subject
    mark_complete(folder / "inputs.json", inputs, files, warned)
    return _read(task)


def _say_of_others(folder: Path, inputs: JsonObject, replaces: bool) -> None:
    """TrimtabError, or a word, where the folder holds what was made of other inputs. Another judge may score the
    completions that are there."""
    if why := others(folder, inputs):
        if not replaces:
            raise TrimtabError(f"{folder}: holds another evaluation ({why}). Choose another --out, or --overwrite.")
        only_say(f"{folder}: holds another evaluation ({why}): it is made anew")
    elif had_another_judge(folder, inputs):
        only_say(f"{folder}: was judged otherwise before; its completions are kept, its scores are replaced")


def _inputs(task: EvaluationTask) -> JsonObject:
    """What the files in the folder depend on."""
    rows, data = hashlib.blake2b(digest_size=16), task.data
    for record in (*task.test, *task.validation):
        rows.update(repr((record.prompt, record.completions)).encode("utf-8", "surrogatepass"))
    return {
        "version": VERSION,
        "model": task.model_hash,
        "rows": rows.hexdigest(),
        "counts": [len(task.test), len(task.validation)],
        "decoding": task.settings.decoding.signature(),
        "precision": task.settings.precision,
        "device": evaluation_device().type,
        "tokenizer": hash_source(task.tokenizer_source),
        "truncation": [data.max_length, data.min_completion_length],
        "judge": judged_by(task.scorer, task.test, task.opponent or ()) if task.scorer else None,
        **({"control_tokens": data.control_tokens} if data.control_tokens != "text" else {}),
        **({"chat_template_kwargs": data.chat_template_kwargs} if data.chat_template_kwargs else {}),
    }


def _scores_file(task: EvaluationTask) -> str:
    return PREFERENCES if task.scorer is not None and task.scorer.compares else SCORES


def judged_by(judge: Reward, test: Sequence[Record], opponent: Sequence[Generation] = ()) -> str:
    """What scores depend on beside prompts and completions: the rows' other columns, and the opponent's answers,
    where it reads them."""
    if judge.compares:
        others = repr([(answer.id, answer.completion) for answer in opponent]).encode("utf-8", "surrogatepass")
        return f"{judge.signature}|{hashlib.blake2b(others, digest_size=16).hexdigest()}"
    every = isinstance(judge, FunctionReward)
    read = [[item for item in sorted(r.columns.items()) if every or judge.reads(item[0])] for r in test]
    if not every and not any(read):
        return judge.signature
    columns = repr(read).encode("utf-8", "surrogatepass")
    return f"{judge.signature}|{hashlib.blake2b(columns, digest_size=16).hexdigest()}"


def _has_measures(folder: Path) -> bool:
    try:
        read_measured(folder)
    except TrimtabError as error:
        only_say(str(error))
        return False
    return True


def _read(task: EvaluationTask) -> MethodOutputs:
    folder, measured = task.folder, read_measured(task.folder)
    outputs = MethodOutputs(
        task.name,
        read_generations(folder / "generations.jsonl"),
        perplexity=measured.perplexity,
        bits_per_byte=measured.bits_per_byte,
        warnings=list(warnings_of(folder / "inputs.json").values()),
    )
    if task.scorer is not None and task.scorer.compares:
        outputs.judge_by(read_scores(folder / PREFERENCES))
    elif task.scorer is not None:
        outputs.scores = read_scores(folder / SCORES)
    return outputs
