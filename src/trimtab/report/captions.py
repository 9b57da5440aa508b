"""What stands under each figure of the page."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.catalogue import CATALOGUE, family, label
from trimtab.evaluation.metrics import paired_metrics
from trimtab.evaluation.results import Results
from trimtab.report.dynamics import curve_names, over_optimisation_names

OVER_OPTIMISATION = (
    "at each evaluation: the training reward (left) and the judge (right) of the "
    "same completions of held-out prompts, against the KL that was spent to get there. Markers fill as training "
    "goes on. Where both rise, the gain is one that the judge sees too. Where the left rises and the right "
    "falls, the reward is being exploited: over-optimisation, or reward hacking. Points are means over a few "
    "prompts, without intervals."
)
CAPTIONS = {
    "win_rates": "Win rate against the opponent, with 95 % intervals over prompts. The dashed line "
    "is an even match. Diamonds: the win rate that a generalised linear model predicts at equal length.",
    "judge_scores": "Mean score by the judge.",
    "length_penalty": "The length penalty of SFT, each time it was taken: its value on sampled completions "
    "(left), and its gradient's norm beside those of the losses (right). It is clipped apart from the loss's "
    "gradient, then added to it. A norm of 0 where the value is not would mean that the penalty trains nothing.",
    "behaviours": "Shares of completions, found by rules from the text alone.",
    "lengths": "Completion lengths in tokens; each panel has its own height. "
    "Chosen texts longer than the range are in the last bin.",
}
TICKED = ("win_rates", "judge_scores", "differences_")


def captions(results: Results) -> dict[str, str]:
    """Of every figure that there may be, by its name."""
    texts = dict(CAPTIONS)
    for metric in paired_metrics():
        if metric.paired is not None:
            note = f" {metric.paired.note}" if metric.paired.note else ""
            texts[f"differences_{metric.name}"] = f"Paired differences in {metric.paired.name}.{note}"
    for stage, name in over_optimisation_names(results).items():
        texts[name] = f"{label(stage)} {OVER_OPTIMISATION}"
    for stage, name in curve_names(results).items():
        entry = CATALOGUE.get(family(stage))
        texts[name] = f"{label(stage)}: {entry.caption if entry else 'training and validation.'}"
    if len(set(results.provenance.seeds)) > 1:
        return {name: _of_seeds(name, text) for name, text in texts.items()}
    return texts


def _of_seeds(name: str, text: str) -> str:
    ticks = " Small ticks: each training seed." if name.startswith(TICKED) else ""
    return text.replace("intervals over prompts", "intervals over prompts and seeds") + ticks


def differences(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of these figures, those of the metrics that answer whether a method helped, and those of the others, the
    judge's first."""
    metrics = [metric for metric in paired_metrics() if f"differences_{metric.name}" in names]
    headlines = [metric for metric in metrics if metric.paired and metric.paired.headline]
    others = sorted((metric for metric in metrics if metric not in headlines), key=lambda metric: not metric.judged)
    return [f"differences_{m.name}" for m in headlines], [f"differences_{m.name}" for m in others]
