"""The settings of a command: of one that runs a part of a study by itself, `--set` and the options beside it."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.catalogue import CATALOGUE
from trimtab.data.parsing import apply_overrides, parse
from trimtab.data.splits import DataSettings
from trimtab.data.trust import TrustSettings
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.methods.table import METHODS
from trimtab.notices import say
from trimtab.rewards.settings import reward_named
from trimtab.rewards.settings_base import RewardSettings
from trimtab.training.schedule import TrainingSettings


def stage_settings(
    method: str, data: str, validation: str | None, overrides: Sequence[str], rewards: Sequence[str] = ()
) -> tuple[TrainingSettings, DataSettings]:
    """The settings of one stage run by itself: `beta=0.2` is the method's, `data.max_length=512` the data's.

    rewards: of a method that has some, by their short names (see `reward_named`).
    """
    value = apply_overrides({}, overrides)
    return read_stage_settings(method, data, validation, value, [reward_named(reward) for reward in rewards])


def read_stage_settings(
    method: str, data: str, validation: str | None, value: JsonObject, rewards: Sequence[RewardSettings] = ()
) -> tuple[TrainingSettings, DataSettings]:
    """The same from a dictionary, in which `data` holds the data's own."""
    value = dict(value)
    rows = data_settings(data, validation, value.pop("data", {}))
    if rewards:
        value["rewards"] = list(rewards)
    return parse(METHODS[method].settings, value, f"--set ({method})", _of_one_stage), rows


def _of_one_stage(name: str) -> str | None:
    return (
        " A command for one stage takes its settings without the stage's name, such as learning_rate=1e-5."
        if name in CATALOGUE
        else None
    )


def data_settings(data: str, validation: str | None, value: JsonObject) -> DataSettings:
    """The settings of the rows, of the options --data and --validation and of `--set data.…`, which is `value`.

    TrimtabError where an option and a setting contradict each other, or a setting is wrong.
    """
    if not isinstance(value, dict):
        raise TrimtabError(f"--set data={value}: data has settings inside, such as data.max_length=512.")
    files = {"train": data} | ({"validation": validation} if validation else {})
    for name, source in files.items():
        option = "--data" if name == "train" else f"--{name}"
        if value.get(name, source) != source:
            raise TrimtabError(f"--set data.{name}={value[name]}: {option} says {source}. Give one of the two.")
    return parse(DataSettings, files | value, "--set (data)")


def audit_settings(
    data: str, validation: str | None, overrides: Sequence[str], has_tokenizer: bool = True
) -> tuple[DataSettings, TrustSettings]:
    """The settings of `trimtab audit`: `data.max_length=512` as in training; trust_remote_code the tokenizer's."""
    value = apply_overrides({}, overrides)
    data_given = value.pop("data", {})
    rows = data_settings(data, validation, data_given)
    counted = [name for name in ("max_length", "min_completion_length") if name in data_given]
    if counted and not has_tokenizer:
        raise TrimtabError(f"--set data.{counted[0]}: it counts tokens, so name whose with --model or --tokenizer.")
    return rows, parse(TrustSettings, value, "--set (audit)")


def check_sharing(ray: str | None, workers: int | None, gpus: Sequence[str]) -> None:
    """TrimtabError where it is said twice who does a study's work."""
    if ray is not None and (workers is not None or gpus):
        raise TrimtabError(
            "--ray goes without --workers and --gpus: Ray decides what runs where, by the recipe's `resources`."
        )


def gpus_named(text: str | None) -> list[str]:
    """`--gpus 0,1`: numbers, or CUDA's own names of GPUs (GPU-…, MIG-…). None of them without the option."""
    if text is None:
        return []
    gpus = [part.strip() for part in text.split(",")]
    if not all(gpu.isdecimal() or gpu.startswith(("GPU-", "MIG-")) for gpu in gpus) or len(set(gpus)) < len(gpus):
        raise TrimtabError(f"--gpus {text!r}: expected numbers of GPUs with commas between, such as 0,1.")
    return gpus


MANY_SEEDS = 20
"""A lone number up to this may have been meant as how many."""


def seeds_named(text: str) -> list[int]:
    """`--seeds 0,1,2`."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**64:
        raise TrimtabError(
            f"--seeds {text!r}: expected whole numbers from 0 to 2⁶⁴ − 1 with commas between, such as 0,1,2."
        )
    if len(seeds) == 1 and 1 < seeds[0] <= MANY_SEEDS:
        several = ",".join(map(str, range(seeds[0])))
        say(f"--seeds {text}: one training seed, which is {seeds[0]}; {seeds[0]} of them are --seeds {several}")
    return seeds


def seed_count(text: str) -> int:
    """How many training seeds a plan is of: a number, or seeds as `trimtab study` takes them."""
    if "," in text:
        return len(set(seeds_named(text)))
    if not text.isdecimal() or not 0 < int(text) <= 10_000:
        raise TrimtabError(f"--seeds {text!r}: expected how many, such as 3, or which, such as 0,1,2.")
    return int(text)
