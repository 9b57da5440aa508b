"""Settings that change memory, speed or what is written down, but never the result beyond rounding.

They are no part of what a folder is for: a run may go on with others. What was changed is noted in the folder.
"""

from __future__ import annotations

from trimtab.json_types import JsonObject, JsonValue
from trimtab.rewards.settings import without_asking

OF_TRAINING = {
    "token_budget",
    "gradient_checkpointing",
    "logging_interval",
    "checkpoint_interval",
    "sample_interval",
    "trackers",
    "sharding",
}
OF_STUDY = {"tasks", "resources"}
"""Standard tasks are asked of what was trained, each kept with how it was asked; resources are of machines."""
OF_EVALUATION = {"token_budget", "labels", "judge_probes"}
"""Labels come when the answers are there, and probes ask a judge about what is there already."""
OF_SAMPLING = {"batch_size", "vllm", "server"}
"""How many are drawn together, and what the engine takes of the machine."""


def _dropped(value: JsonObject) -> set[str]:
    """Which of these settings are operational; whose they are is seen by what they hold."""
    if "methods" in value and "evaluation" in value:
        return OF_STUDY
    if "learning_rate" in value:
        return OF_TRAINING
    if "temperatures" in value and "max_new_tokens" in value:
        return OF_SAMPLING
    if "strategy" in value and "max_new_tokens" in value:
        return {"vllm"}  # of an evaluation the batch decides what is drawn
    if "kind" in value and "weight" in value:
        return {"token_budget"}
    if "decoding" in value:
        return OF_EVALUATION
    return set()


def without_operational(value: JsonValue) -> JsonValue:
    """Dumped settings, or a dumped recipe, with what no result depends on left out."""

    def strip(value: JsonValue) -> JsonValue:
        if isinstance(value, dict):
            dropped = _dropped(value)
            return {k: strip(v) for k, v in value.items() if k not in dropped}
        return [strip(v) for v in value] if isinstance(value, list | tuple) else value

    return strip(without_asking(value))


def operational(settings: JsonObject) -> JsonObject:
    """A stage's operational settings by name, from which a later run sees what was changed."""
    changeable = {name: settings[name] for name in sorted(OF_TRAINING) if name in settings}
    sampling = settings.get("sampling") or {}
    return changeable | {f"sampling.{name}": sampling[name] for name in sorted(OF_SAMPLING) if name in sampling}
