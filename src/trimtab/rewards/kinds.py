"""The kinds of rewards there are: one row each.

A kind is a class of settings (a subclass of settings_base.RewardSettings) in the file of its reward, or in
one of settings alone where the reward loads PyTorch. To add one,
write that file and its row here; recipes, the command line, `plan`, reports and docs/settings.md follow.
Nothing is imported here, so that the command's help can list the names at once.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A row. settings: file and class in this folder. name: how the command line names one; None: not at all."""

    settings: str
    name: str | None


KINDS = {
    "function": Kind("function.FunctionSettings", "file.py:function"),
    "classifier": Kind("local_settings.ClassifierSettings", "a classifier's folder or hub name (A/B)"),
    "nemotron": Kind("nemotron.NemotronSettings", "nemotron"),
    "nemotron_local": Kind("local_settings.NemotronLocalSettings", "nemotron_local:FOLDER"),
    "vllm": Kind("vllm_pooling.VLLMPoolingSettings", "vllm:MODEL@URL"),
    "pairwise": Kind("pairwise.PairwiseSettings", "pairwise:MODEL@URL"),
    "jury": Kind("jury.JurySettings", None),
    "yes_no": Kind("local_settings.YesNoSettings", "yes_no:FOLDER"),
    "instructions": Kind("instructions.InstructionsSettings", "instructions"),
    "ensemble": Kind("ensemble_settings.EnsembleSettings", None),
    "exact_answer": Kind("exact_answer.ExactAnswerSettings", "exact_answer"),
    "gold": Kind("gold.GoldSettings", "gold"),
    "trained": Kind("trained.TrainedSettings", None),
}
_OWN = sorted(row.name for kind, row in KINDS.items() if row.name and row.name.startswith(kind))
_OTHER = [row.name for row in KINDS.values() if row.name and row.name not in _OWN]
NAMES = ", ".join([*_OWN, *_OTHER, "and a .yaml file of settings"])
"""What the command line takes for a reward or judge, in words: kinds by their own names, then any other name."""
