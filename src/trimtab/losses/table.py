"""Every loss that the setting `loss` of preference training accepts, and how one is called.

A loss names its inputs, and is given those; its settings follow the *, each with the default that its
signature has (`beta` has none and comes from the method's settings).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

from trimtab.losses.completions import CompletionLoss, imitation, kto, ranking
from trimtab.losses.preference import (
    PreferenceLoss,
    apo_zero,
    cal_dpo,
    check_smoothing,
    dpo,
    dpop,
    hinge,
    ipo,
    ipo_averaged,
    ld_dpo,
    orpo,
    r_dpo,
    robust,
    simpo,
    sppo,
    sppo_estimated,
)
from trimtab.losses.response_conditioned import check_balance, rc_dpo

if TYPE_CHECKING:
    from torch import Tensor

LossInput: TypeAlias = "Tensor | Sequence[int] | float | None"
"""What a loss may name: a tensor, the sizes of the groups, or a number of the whole step."""
LossOutput: TypeAlias = "PreferenceLoss | CompletionLoss | Tensor"
Loss: TypeAlias = Callable[..., LossOutput]
LOSSES: dict[str, Loss] = {
    "dpo": dpo,
    "robust": robust,
    "hinge": hinge,
    "ipo": ipo,
    "ipo_averaged": ipo_averaged,
    "sppo": sppo,
    "sppo_estimated": sppo_estimated,
    "cal_dpo": cal_dpo,
    "ld_dpo": ld_dpo,
    "r_dpo": r_dpo,
    "dpop": dpop,
    "apo_zero": apo_zero,
    "simpo": simpo,
    "orpo": orpo,
    "rc_dpo": rc_dpo,
    "kto": kto,
    "ranking": ranking,
    "sft": imitation,
}
"""Name -> loss."""
CHECKS: dict[str, Callable[[float], None]] = {"label_smoothing": check_smoothing, "balance": check_balance}
"""What raises ValueError for a value that an option may not have. The losses ask the same; here it is asked when
settings are read, before there is a tensor."""

Level = Literal["pair", "group", "completion"]


@lru_cache
def parameters(name: str) -> tuple[frozenset[str], dict[str, float | None]]:
    """A loss's inputs, and its settings with their defaults (None where there is none)."""
    arguments = inspect.signature(LOSSES[name]).parameters.values()
    inputs = frozenset(p.name for p in arguments if p.kind is not p.KEYWORD_ONLY)
    settings = {p.name: None if p.default is p.empty else p.default for p in arguments if p.kind is p.KEYWORD_ONLY}
    return inputs, settings


def needs_reference(name: str) -> bool:
    """Whether a loss reads the reference's log-probabilities."""
    return any(entry.startswith("ref_") for entry in parameters(name)[0])


def needs_length_instructions(name: str) -> bool:
    """Whether a row has four branches: the pair, and each completion after a prompt that asks for a length."""
    return "failing_logps" in parameters(name)[0]


def level_of(name: str) -> Level:
    """What there is one loss of: a pair (the first and last completion of a group), a group, or a completion."""
    inputs = parameters(name)[0]
    if "labels_C" in inputs:
        return "completion"
    return "group" if "sizes" in inputs else "pair"


def call(name: str, inputs: Mapping[str, LossInput], settings: Mapping[str, float]) -> LossOutput:
    """The loss on those of the inputs and settings that it names."""
    input_names, defaults = parameters(name)
    own_settings = {key: value for key, value in settings.items() if key in defaults}
    return LOSSES[name](**{key: inputs[key] for key in input_names}, **own_settings)


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is not in the table."""
    if unknown := [name for name in names if name not in LOSSES]:
        raise ValueError(f"unknown loss {unknown[0]!r}; known: {', '.join(LOSSES)}")


def check_settings(names: Sequence[str], options: Mapping[str, float]) -> None:
    """Raises ValueError where a name, an option or its value is not one that the losses take."""
    check_names(names)
    accepted = {option for name in names for option in parameters(name)[1]} - {"beta"}
    if foreign := sorted(set(options) - accepted):
        options_text = ", ".join(sorted(accepted)) or "nothing"
        raise ValueError(f"loss_options: {', '.join(names)} takes no {foreign[0]!r}; it takes {options_text}")
    for option in accepted & set(CHECKS) & set(options):
        CHECKS[option](options[option])
