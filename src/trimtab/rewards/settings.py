"""Which rewards a recipe asks for, and how they are made: what holds for all kinds (see kinds.py)."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import AfterValidator, Discriminator, Tag, ValidatorFunctionWrapHandler, WrapValidator

from trimtab.data.parsing import parse
from trimtab.data.settings import Settings
from trimtab.data.yaml_text import read_yaml
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.rewards.base import Reward
from trimtab.rewards.function import Function, FunctionSettings
from trimtab.rewards.kinds import KINDS, NAMES
from trimtab.rewards.settings_base import RewardContext, RewardSettings
from trimtab.rewards.weighted import WeightedReward


def _settings_class(row: str) -> type[RewardSettings]:
    file, name = row.split(".")
    settings: type[RewardSettings] = getattr(importlib.import_module(f"trimtab.rewards.{file}"), name)
    return settings


CLASSES = {name: _settings_class(kind.settings) for name, kind in KINDS.items()}
"""The settings of each kind."""
WRITTEN_ONCE: JsonObject = {
    "allow_pickle": False,
    "trust_remote_code": False,
    "path": None,
    "model": None,
    "tokenizer": None,
    "token_budget": 8192,
    "precision": "float32",
    "question": None,
    "attribute": None,
    "base_url": None,
    "name": None,
}
"""What folders of earlier versions hold of every reward, whatever its kind. It stays in the keys of folders, so
that these are recognised, and is read as if it were not there."""
SETTINGS_FILES = (".yaml", ".yml")
ANY_KIND = set(WRITTEN_ONCE).union(*(kind.model_fields for kind in CLASSES.values()))


def _own_settings(value: JsonValue, read: ValidatorFunctionWrapHandler) -> object:
    """Reads a reward. ValueError for settings that only other kinds have; those that earlier versions wrote down
    without a meaning are passed over."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in CLASSES:
        return read(value)
    foreign = {name: value[name] for name in value if name in ANY_KIND - set(CLASSES[kind].model_fields)}
    settings = read({name: own for name, own in value.items() if name not in foreign})
    if meant := sorted(name for name, setting in foreign.items() if setting != _default(name)):
        raise ValueError(f"a reward of kind {kind} takes no {', '.join(meant)}")
    return settings


def _default(name: str) -> object:
    """The default of a setting that some kind has."""
    fields = (kind.model_fields[name] for kind in CLASSES.values() if name in kind.model_fields)
    return next(fields).get_default(call_default_factory=True)


def _kind_of(value: object) -> str | None:
    """The tag of the union. A callable, since `kind` is checked before it is read, as all settings are."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return None if isinstance(value, dict) and "kind" not in value else str(kind)


if TYPE_CHECKING:
    AnyReward = RewardSettings
else:
    _tagged = tuple(Annotated[settings, Tag(kind)] for kind, settings in CLASSES.items())
    AnyReward = Annotated[Union[_tagged], Discriminator(_kind_of), WrapValidator(_own_settings)]  # noqa: UP007


def check_no_reward_twice(rewards: tuple[RewardSettings, ...]) -> tuple[RewardSettings, ...]:
    """ValueError where a reward is there twice: its weights would have to be added up."""
    names = [(reward.identity, reward.given_name) for reward in rewards]
    if twice := [reward for i, reward in enumerate(rewards) if names[i] in names[:i]]:
        raise ValueError(f"{twice[0].describe()} is there twice: name it once, with the sum of the weights")
    return rewards


def check_no_judge(rewards: tuple[RewardSettings, ...]) -> tuple[RewardSettings, ...]:
    """ValueError for what can't score one completion by itself."""
    if judges := [reward for reward in rewards if reward.compares]:
        raise ValueError(f"kind {judges[0].kind} compares two answers: it is a judge, and no reward to train on")
    return rewards


Rewards = Annotated[tuple[AnyReward, ...], AfterValidator(check_no_reward_twice), AfterValidator(check_no_judge)]


def without_asking(value: JsonValue) -> JsonValue:
    """Dumped settings as they enter a folder's key: without what no score depends on, in the rewards among them."""
    if isinstance(value, dict):
        if "kind" not in value or "weight" not in value:
            return {name: without_asking(setting) for name, setting in value.items()}
        ignored = CLASSES[value["kind"]].scores_ignore if value["kind"] in CLASSES else ()
        return WRITTEN_ONCE | {
            name: without_asking(setting) for name, setting in value.items() if name not in ignored
        }
    return [without_asking(item) for item in value] if isinstance(value, list | tuple) else value


def reward_named(name: str) -> RewardSettings:
    """A reward by its short name, as kinds.py lists them: a file of settings, a kind by itself or with a colon,
    else a function's place, else a classifier's folder or hub name. TrimtabError where it is none of them."""
    name = name.strip()
    if not name:
        raise TrimtabError(f"a reward or judge without a name. Known: {NAMES}.")
    if Path(name).suffix in SETTINGS_FILES:
        return _in_file(Path(name).expanduser())
    kind = name.partition(":")[0]
    settings = CLASSES[kind].read_name(name.removeprefix(kind)) if kind in CLASSES else None
    if settings is not None:
        return parse(CLASSES[kind], {"kind": kind, **settings}, f"reward {kind + ':…' if '@' in name else name}")
    if ":" in name and not Path(name).expanduser().is_dir():
        return parse(CLASSES["function"], {"kind": "function", "path": name}, f"reward {name}")
    if "/" not in name and not Path(name).expanduser().is_dir():
        raise TrimtabError(f"reward {name!r}: no such folder, nor a name of a reward. Known: {NAMES}.")
    return parse(CLASSES["classifier"], {"kind": "classifier", "model": name}, f"reward {name}")


RewardLike = str | os.PathLike[str] | Mapping[str, object] | RewardSettings | Function
"""What a program may give as a reward: a short name, settings with a kind, or a Python function."""


class _OneReward(Settings):
    reward: AnyReward


def _in_file(path: Path) -> RewardSettings:
    """A reward whose settings are a file, as they would be in a recipe."""
    try:
        value = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrimtabError(f"reward {path}: no such file of settings.") from None
    except (OSError, ValueError) as error:
        raise TrimtabError(f"reward {path}: {error}.") from None
    if not isinstance(value, dict):
        raise TrimtabError(f"reward {path}: expected settings with names, such as kind and model.")
    return parse(_OneReward, {"reward": value}, f"reward {path}").reward


def reward_given(value: RewardLike, option: str) -> RewardSettings:
    """A reward as a program may give it: a short name, settings with a kind, or a Python function. TrimtabError
    where it is none of them. option: what it is given as."""
    if isinstance(value, RewardSettings):
        return value
    if isinstance(value, str | os.PathLike):
        return reward_named(os.fspath(value))
    if isinstance(value, Mapping):
        return parse(_OneReward, {"reward": dict(value)}, option).reward
    return FunctionSettings.of(value)


def check_judge(judge: RewardSettings, in_sandbox: bool, second: bool = False) -> None:
    """ValueError for a reward that can't judge a study. second: one that stands beside the judge, from which no
    verdict follows."""
    if judge.needs_sandbox and not in_sandbox:
        raise ValueError(f"judge '{judge.kind}' knows the sandbox's world only; leave it out for your own data")
    if judge.needs_training and not second:
        raise ValueError("the judge can't be the reward model that the study trains: it is what is optimised")
    if judge.asks_policy:
        raise ValueError(f"a judge of kind '{judge.kind}' needs a model: no policy can judge itself")
    if getattr(judge, "k", 0):
        raise ValueError("a judge of kind 'ensemble' gives the mean, with the spread beside it: set its k to 0")
    if judge.weight != 1:
        raise ValueError("a judge has no weight: win rates compare its scores with each other")


def named_apart(rewards: Sequence[RewardSettings]) -> dict[str, RewardSettings]:
    """Rewards by what reports call each: its given name, else its kind; numbered where that is another's too."""
    names = [reward.given_name or reward.kind for reward in rewards]
    counts = Counter(names)
    return {
        name if counts[name] == 1 else f"{name} {names[:i].count(name) + 1}": reward
        for i, (name, reward) in enumerate(zip(names, rewards, strict=True))
    }


def check_rewards(settings: Sequence[RewardSettings]) -> None:
    """TrimtabError where a key, an address, a function or a model is not there: told before hours of training,
    not after. Models are not loaded."""
    for reward in settings:
        reward.check()


def make_reward(
    settings: Sequence[RewardSettings],
    ready: Mapping[str, Reward],
    cache: Path | None = None,
    policy: str | None = None,
) -> Reward:
    """The reward that the settings describe: the only one, where its weight is 1, else a weighted sum.

    ready, cache, policy: see RewardContext. TrimtabError where there is none, a function or model can't be loaded,
    a key or address is not there, or two rewards have one name.
    """
    if not settings:
        kinds = list(KINDS)
        raise TrimtabError(
            "no reward: name at least one with --reward (in a recipe: grpo.rewards and the like), of kind "
            f"{', '.join(kinds[:-1])} or {kinds[-1]}."
        )
    context = RewardContext(ready, cache, policy)
    parts = [(reward.make(context), reward.weight) for reward in settings]
    _tell_apart([reward for reward, _ in parts], settings)
    return parts[0][0] if len(parts) == 1 and parts[0][1] == 1.0 else WeightedReward(parts)


def _tell_apart(rewards: Sequence[Reward], settings: Sequence[RewardSettings]) -> None:
    """Gives rewards that share a name, and were given none, as much of their path as tells them apart: two folders
    called best become a/best and b/best. Names stay as they are where they are no other's."""
    taken = Counter(reward.name for reward in rewards)
    paths = [
        (*reward_settings.place, reward.name) for reward, reward_settings in zip(rewards, settings, strict=True)
    ]
    for name in [name for name, count in taken.items() if count > 1]:
        same = {
            i: path
            for i, path in enumerate(paths)
            if settings[i].place and rewards[i].name == name and not settings[i].given_name
        }
        for i, path in same.items():
            ends = range(2, len(path) + 1)
            rewards[i].name = next(
                ("/".join(path[-n:]) for n in ends if sum(p[-n:] == path[-n:] for p in same.values()) == 1), name
            )
