"""How a stage ends: what it wrote down of itself, done.json the last, and what a person must know of it."""

from __future__ import annotations

import platform
import shlex
import shutil
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator

from trimtab import __version__
from trimtab.devices import peak_memory
from trimtab.files import read_json, write_json, write_text
from trimtab.json_types import JsonObject
from trimtab.notices import Warnings, warn
from trimtab.training.card import CARD, stage_card
from trimtab.training.folder import changed_settings, written_files
from trimtab.training.loop import LAST
from trimtab.training.metrics import read_metrics
from trimtab.training.run_state import Finished
from trimtab.training.schedule import TrainingSettings

WARNINGS = "warnings.json"
"""Of a stage that goes on; when it is done, they are in done.json."""


def mark_done(
    out: Path,
    key: str,
    finished: Finished,
    settings: TrainingSettings,
    acc: Accelerator,
    warnings: Warnings,
    facts: JsonObject,
) -> None:
    """Writes the model's card, then done.json, the last. facts: entries of done.json beside how the run ended;
    best_metric is one of them."""
    start = _starting_value(out, facts["best_metric"])
    _warn_of_outcome(out, finished, facts["best_metric"], start)
    done = {
        "key": key,
        **vars(finished),
        "start": start,
        "warnings": warnings.lines,
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "device": str(acc.device),
        "processes": acc.num_processes,
        "peak_memory_bytes": peak_memory(acc.device),
        "python": platform.python_version(),
        "versions": {"trimtab": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "changed_settings": changed_settings(out),
        **facts,
        **written_files(out),
    }
    write_text(out / "best" / CARD, stage_card(out, done))
    write_json(out / "done.json", done)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    (out / WARNINGS).unlink(missing_ok=True)  # done.json has them


def _starting_value(stage: Path, metric: str) -> float | None:
    """What the metric that chose the weights was before the first step."""
    name = f"eval_{metric.removeprefix('eval_')}"
    return next((row[name] for row in read_metrics(stage / "metrics.jsonl") if name in row), None)


def _warn_of_outcome(stage: Path, finished: Finished, metric: str, start: float | None) -> None:
    if finished.best_step == 0 < finished.step:
        value = "" if start is None else f" ({start:.4g})"
        warn(
            f"no evaluation was better than the model it started from by {metric}{value}, which was kept: best/ is "
            f"that model, and the last weights, of step {finished.step}, are in {LAST}/"
        )
    if skipped := len(read_metrics(stage / "skipped.jsonl")):
        warn(f"{skipped} steps with a broken loss or gradient were not taken (skipped.jsonl).")


def ending(stage: Path) -> list[str]:
    """What a person wants to know of a finished stage: which weights were kept and why, what became of the rows,
    and what to do next."""
    done, data, inputs = (_read(stage / name) for name in ("done.json", "data.json", "stage.json"))
    return [
        _describe_kept_weights(stage, done, data),
        _describe_rows(data, inputs["data"]),
        f"Next: {next_command(stage, done, inputs)}",
    ]


def _describe_kept_weights(stage: Path, done: JsonObject, data: JsonObject) -> str:
    step, best_step, metric = done["step"], done["best_step"], done["best_metric"].removeprefix("eval_")
    early = ", stopped early" if done["stopped_early"] else ""
    if metric == "step" or not data["validation"]["used"]:
        why = "best_metric is step" if metric == "step" else "there are no validation rows to choose by"
        return f"Kept: the last step, {best_step}{early}: {why}."
    start = "" if done.get("start") is None else f"; {done['start']:.4g} at the start"
    chosen = f"Kept: step {best_step} of {step}{early}, the best by validation {metric}: {done['best']:.4g}{start}"
    if best_step == step:
        return f"{chosen}."
    if best_step == 0:
        return f"{chosen}; it is the model that training started from. The last weights are in {stage / LAST}."
    return f"{chosen}. Without the later weights: --set best_metric=step --set best_is=highest keeps the last."


def _describe_rows(data: JsonObject, settings: JsonObject) -> str:
    parts = []
    for split, verb in (("train", "trained on"), ("validation", "validated on")):
        counts = data[split]
        if not counts["rows"]:
            continue
        lost = [f"{count} dropped: {reason}" for reason, count in counts["dropped"].items()]
        lost += [f"{counts['truncated']} completions cut at the end"] if counts["truncated"] else []
        parts.append(f"{verb} {counts['used']} of {counts['rows']} ({'; '.join(lost) or 'none dropped or cut'})")
    if data.get("unreadable"):
        parts.append(f"{data['unreadable']} could not be read")
    if settings.get("test_rows") or settings.get("test_share"):
        parts.append("those held out for a test were not used")
    return f"Rows: {', '.join(parts)}."


def next_command(stage: Path, done: JsonObject, inputs: JsonObject) -> str:
    """What to type next: a reward model is for GRPO; a policy is evaluated, on the rows that were held out."""
    best, sources, settings = stage / "best", done["sources"], inputs["data"]
    if inputs["stage"] == "reward":
        arguments = ["trimtab", "grpo", "--model", sources["model"], "--data", sources["train"]]
        arguments += ["--reward", str(best)]
        return shlex.join([*arguments, "--out", str(stage.with_name("grpo"))])
    kept = stage / LAST if done["best_step"] == 0 < done["step"] else best
    arguments = ["trimtab", "evaluate", "--model", str(kept), "--data"]
    held_out = sources["validation"] or (sources["train"] if settings.get("validation_rows") else "held_out.jsonl")
    arguments.append(held_out)
    if settings.get("validation_rows"):
        arguments += ["--rows", str(settings["validation_rows"])]
    return shlex.join([*arguments, "--out", str(stage.with_name(f"{stage.name}-evaluation"))])


def _read(path: Path) -> JsonObject:
    return read_json(path, f"Put it back, or remove {path.parent}, and the same command makes it anew.")
