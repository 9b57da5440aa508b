"""What each method is called, how it is drawn, and what it starts from: plain data, read by every room.

A row here and a row in methods/table.py, which names the code, make a method known to the command line, to recipes,
to `plan`, and to the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

START, SFT = "start", "sft"
"""What a method may start from: the study's model, and the stage that most others share."""


@dataclass(frozen=True)
class MethodEntry:
    """One method as people meet it.

    name: its key in a recipe, and the name of its stage's folder. label: in tables and figures. title: in a model
    card. summary: the first sentence of its command's help; "" for one without a command. colour, marker: of its
    points; both differ between methods. starts_from: the stage whose model it trains. driven_by: what tells it what
    is better. panels: quantities of its training figure, by their names in report/dynamics.py. caption: of that
    figure. compared: whether its model answers prompts, and stands in the tables of results. in_rounds: whether it
    trains in several stages, called name-1, name-2, …. most_used: the settings that its command's help names.
    """

    name: str
    label: str
    title: str
    summary: str
    colour: str
    marker: str
    starts_from: str
    driven_by: Literal["nothing", "data", "reward"]
    panels: tuple[str, ...] = ()
    caption: str = "training and validation."
    compared: bool = True
    in_rounds: bool = False
    most_used: tuple[str, ...] = ()


PREFERENCE_PANELS = (
    "implicit rewards",
    "implicit margin",
    "loss",
    "preference accuracy",
    "log-probabilities",
    "gradient norm",
)
SAMPLED_CAPTION = (
    "training, and validation on held-out prompts and pairs. KL is estimated on samples at temperature 1."
)

METHOD_ENTRIES: tuple[MethodEntry, ...] = (
    MethodEntry(
        name="base", label="Base", title="the model that training starts from", summary="",
        colour="#7a7a7a", marker="o", starts_from=START, driven_by="nothing",
    ),
    MethodEntry(
        name="sft", label="SFT", title="supervised fine-tuning",
        summary="Supervised fine-tuning on the chosen completions.",
        colour="#e69f00", marker="s", starts_from=START, driven_by="data",
        most_used=("learning_rate", "batch_size", "epochs", "length_penalty", "lora"),
        panels=("loss", "entropy", "gradient norm"),
    ),
    MethodEntry(
        name="sft_length", label="SFT + length penalty", title="supervised fine-tuning with a length penalty",
        summary="",
        colour="#56b4e9", marker="D", starts_from=START, driven_by="data",
        panels=("loss", "entropy", "gradient norm"),
    ),
    MethodEntry(
        name="dpo", label="DPO", title="direct preference optimization",
        summary="Direct preference optimization from a model that is also the reference.",
        colour="#0072b2", marker="^", starts_from=SFT, driven_by="data",
        most_used=("learning_rate", "batch_size", "epochs", "loss", "beta", "lora"),
        panels=PREFERENCE_PANELS,
        caption="training and validation. The log-ratio to the reference is of the data's completions; it is not a "
        "KL, which is of the policy's own samples.",
    ),
    MethodEntry(
        name="reward", label="Reward model", title="a reward model (Bradley-Terry)",
        summary="A reward model from preference pairs (Bradley-Terry).",
        colour="#cc79a7", marker="*", starts_from=SFT, driven_by="data",
        most_used=("learning_rate", "batch_size", "epochs", "margin", "lora"),
        panels=("pair accuracy", "loss", "reward margin", "gradient norm"),
        caption="training, and accuracy on held-out pairs with a Wilson interval.",
        compared=False,
    ),
    MethodEntry(
        name="distillation", label="Distillation", title="on-policy distillation from a teacher (GKD)",
        summary="On-policy distillation from a larger model of the same tokenizer (GKD).",
        colour="#b8a800", marker="d", starts_from=SFT, driven_by="data",
        panels=("loss", "divergence", "length", "entropy", "gradient norm"),
        most_used=(
            "teacher", "beta", "own_share", "learning_rate", "batch_size", "epochs", "sampling.max_new_tokens",
        ),
        caption="training on the student's own answers and the data's, and validation on both. The divergence is "
        "from the teacher, by token.",
    ),
    MethodEntry(
        name="online_dpo", label="Online DPO",
        title="a round of direct preference optimization on samples of the model that it started from",
        summary="Rounds of sampling, scoring and preference training; --reward yes_no: the model itself scores.",
        colour="#d55e00", marker=">", starts_from=SFT, driven_by="reward",
        most_used=(
            "learning_rate", "batch_size", "rounds", "samples", "loss", "beta", "sampling.max_new_tokens", "lora",
        ),
        panels=PREFERENCE_PANELS,
        caption="training on the round's own pairs, and validation on the data's, which other models wrote. The "
        "reference is the model that the round starts from.",
        in_rounds=True,
    ),
    MethodEntry(
        name="grpo", label="GRPO",
        title="group policy gradient (the objective is in the settings; leave_one_out is RLOO)",
        summary="Group policy gradient on a reward, from a model that is also the reference.",
        colour="#009e73", marker="v", starts_from=SFT, driven_by="reward",
        most_used=(
            "learning_rate", "batch_size", "max_steps", "samples", "kl_coefficient", "sampling.max_new_tokens",
            "lora",
        ),
        panels=(
            "preference accuracy", "KL", "loss", "training reward", "judge score", "length", "cut", "entropy",
            "equal rewards", "gradient norm",
        ),
        caption=SAMPLED_CAPTION,
    ),
    MethodEntry(
        name="ppo", label="PPO", title="proximal policy optimization with a value head",
        summary="PPO with a value head on a reward, from a model that is also the reference.",
        colour="#882255", marker="h", starts_from=SFT, driven_by="reward",
        most_used=(
            "learning_rate", "batch_size", "max_steps", "samples", "kl_coefficient", "sampling.max_new_tokens",
            "lora",
        ),
        panels=(
            "preference accuracy", "KL", "loss", "training reward", "judge score", "length", "cut", "entropy",
            "explained variance", "gradient norm",
        ),
        caption=SAMPLED_CAPTION,
    ),
)  # fmt: skip
CATALOGUE: dict[str, MethodEntry] = {entry.name: entry for entry in METHOD_ENTRIES}
"""By name, in the order in which a study trains them and a report shows them."""


def settings_hint(name: str) -> str:
    """Which settings of a method are most used, and where all of them are listed."""
    used = ", ".join(CATALOGUE[name].most_used)
    return (
        f"Settings (--set KEY=VALUE): {used}, and data.max_length. "
        f"`trimtab settings {name}` lists the method's and `trimtab settings data` the data's, each with "
        "its default and a sentence."
    )


def compared_methods() -> list[str]:
    """The methods that results compare, in order."""
    return [name for name, entry in CATALOGUE.items() if entry.compared]


def trained_methods() -> list[str]:
    """The methods that have a stage, in order."""
    return [name for name, entry in CATALOGUE.items() if entry.driven_by != "nothing"]


def optimising_methods() -> list[str]:
    """The methods whose own training raises a reward, in one stage each, in order."""
    return [name for name, entry in CATALOGUE.items() if entry.driven_by == "reward" and not entry.in_rounds]


def family(stage: str) -> str:
    """The method that a stage belongs to: online_dpo-2 is a round of online_dpo. Another name is its own."""
    method, _, number = stage.rpartition("-")
    return method if method in CATALOGUE and number.isdigit() else stage


def label(stage: str) -> str:
    """How a method, or a round of one, is called in sentences, tables and figures."""
    method = family(stage)
    shown = CATALOGUE[method].label if method in CATALOGUE else method
    return shown if method == stage else f"{shown}, round {stage.rpartition('-')[2]}"


def ordered_methods(names: Iterable[str]) -> list[str]:
    """The names in the catalogue's order; those that it does not have come last, as they came."""
    unordered = list(names)
    place = {name: i for i, name in enumerate(CATALOGUE)}
    return sorted(unordered, key=lambda name: place.get(family(name), len(place)))
