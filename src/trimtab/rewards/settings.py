"""Which rewards a recipe asks for, and how they are made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from trimtab.data.settings import BUDGET, SECONDS, WEIGHT
from trimtab.data.trust import TrustSettings
from trimtab.errors import TrimtabError
from trimtab.models.kinds import Role, check_model_source
from trimtab.models.policy import Precision
from trimtab.rewards.base import Reward
from trimtab.rewards.cache import ScoreCache
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.endpoint import checked_url
from trimtab.rewards.function import FunctionReward, load_function
from trimtab.rewards.nemotron import MODEL as NEMOTRON
from trimtab.rewards.nemotron import NemotronReward
from trimtab.rewards.nemotron_local import NemotronLocalReward
from trimtab.rewards.remote import RemoteReward
from trimtab.rewards.vllm_pooling import VLLMPoolingReward
from trimtab.rewards.weighted import WeightedReward
from trimtab.rewards.yes_no import YesNoReward, check_question

GOLD = "the sandbox's gold judge"
_ASKING = {"concurrency", "requests_per_minute", "timeout", "retries", "backoff", "longest_wait"}
_REMOTE = {"model", "name", "base_url", "api_key_variable", "cache", *_ASKING}
_LOCAL = {"model", "name", "tokenizer", "token_budget", "precision", *TrustSettings.model_fields}
OF_KIND: dict[str, set[str]] = {
    "function": {"path", "name"},
    "classifier": _LOCAL,
    "nemotron": {"attribute", *_REMOTE},
    "nemotron_local": _LOCAL,
    "vllm": _REMOTE,
    "yes_no": {"question", *_LOCAL},
}
NEEDED = {
    "function": ("path",),
    "classifier": ("model",),
    "nemotron_local": ("model",),
    "vllm": ("base_url", "model"),
}
ROLES: dict[str, Role] = {"classifier": "reward model", "yes_no": "policy"}
NO_MATTER = {"cache", "api_key_variable", *_ASKING}
"""How a server is asked: no score depends on it, so a run may go on with other values."""


class RewardSettings(TrustSettings):
    """One reward. With several, the reward is their weighted sum."""

    kind: Literal["function", "classifier", "nemotron", "nemotron_local", "vllm", "yes_no", "gold", "trained"]
    """function: of Python. classifier: a local model. nemotron: NVIDIA's endpoint, or one like it.
    nemotron_local: a Nemotron-HF language model, here. vllm: a vLLM pooling server. yes_no: a language model, here,
    that is asked whether the completion is good. gold: the sandbox's judge. trained: the reward model that the
    study trains."""
    path: str | None = None
    """function: path/to/file.py:name or package.module:name."""
    model: str | None = None
    """classifier, nemotron_local, yes_no: a Hugging Face folder or hub name; of yes_no None is the policy itself,
    which only online_dpo can ask. nemotron, vllm: as the server names it; of nemotron None is the 70B model."""
    tokenizer: str | None = None
    """classifier, nemotron_local, yes_no: where it is not the model's own."""
    token_budget: int = Field(8192, gt=0, le=BUDGET)
    """classifier, nemotron_local, yes_no: tokens of a pass."""
    precision: Precision = "float32"
    """classifier, yes_no: of the products. nemotron_local: of the weights too."""
    question: str | None = None
    """yes_no: what is asked, with {prompt} and {completion} where they go; None: rewards/yes_no.py's."""
    attribute: str | None = None
    """nemotron: which of a model's several ratings."""
    base_url: str | None = None
    """nemotron, vllm: where the server is. nemotron: None: $NVIDIA_API_BASE_URL, or NVIDIA's."""
    api_key_variable: str | None = None
    """nemotron, vllm: the environment variable that holds the key; never the key itself."""
    concurrency: int = Field(16, gt=0, le=10_000)
    """nemotron, vllm: requests at once."""
    requests_per_minute: float | None = Field(None, gt=0, le=1e9)
    """nemotron, vllm: at most, retries included; None: no limit."""
    timeout: float = Field(120.0, gt=0, le=SECONDS)
    """nemotron, vllm: seconds for an answer."""
    retries: int = Field(6, ge=0, le=1000)
    """nemotron, vllm: after the first try."""
    backoff: float = Field(1.0, ge=0, le=SECONDS)
    """nemotron, vllm: seconds that the first wait may last; each further one twice that."""
    longest_wait: float = Field(120.0, ge=0, le=SECONDS)
    """nemotron, vllm: seconds that any wait may last, also where the server asks for more."""
    cache: str | None = None
    """nemotron, vllm: the file of scores, to share it between runs; None: one in the run's folder."""
    weight: float = Field(1.0, ge=-WEIGHT, le=WEIGHT)
    name: str | None = None
    """All but gold and trained: in logs and breakdowns, instead of the function's, folder's or model's."""

    @field_validator("weight")
    @classmethod
    def _counts(cls, value: float) -> float:
        if not value:
            raise ValueError("a reward of weight 0 has no say: leave it out")
        return value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> RewardSettings:
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        given = {name for name, default in defaults.items() if getattr(self, name) != default}
        if foreign := sorted(given - OF_KIND.get(self.kind, set()) - {"kind", "weight"}):
            raise ValueError(f"a reward of kind {self.kind} takes no {', '.join(foreign)}")
        if lacking := [name for name in NEEDED.get(self.kind, ()) if not getattr(self, name)]:
            raise ValueError(f"a reward of kind {self.kind} needs {' and '.join(lacking)}")
        if self.api_key_variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_variable):
            # Perhaps the key itself, which must not be shown.
            raise ValueError("api_key_variable is the name of an environment variable, such as NVIDIA_API_KEY")
        if self.question is not None:
            check_question(self.question)
        if self.base_url:
            try:
                checked_url(self.name or self.kind, self.base_url, "base_url")
            except TrimtabError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def is_remote(self) -> bool:
        return self.kind in ("nemotron", "vllm")

    @property
    def asks_policy(self) -> bool:
        """Whether it is the policy itself that scores."""
        return self.kind == "yes_no" and self.model is None

    @property
    def only_within_prompts(self) -> bool:
        """Whether scores of different prompts have no common scale, as Nemotron's cards say."""
        return self.kind in ("nemotron", "nemotron_local")

    @property
    def identity(self) -> tuple[str | None, ...]:
        """What scores, whatever it is called or weighs and wherever it runs."""
        if self.kind in ("function", "gold", "trained"):
            return (self.kind, self.path)
        if self.kind == "yes_no":  # the same model as a classifier is another judge
            return (self.kind, self.model, self.question)
        return ("model", self._model, self.attribute)

    @property
    def _model(self) -> str | None:
        return self.model or (NEMOTRON if self.kind == "nemotron" else None)

    def words(self) -> str:
        """For reports: what it is, and what it is called where that says something else."""
        known = {"gold": GOLD, "trained": "a reward model trained on this study's preferences"}
        if self.kind == "yes_no":
            known["yes_no"] = f"yes or no by {self.model or 'the policy itself'}"
        what = known.get(self.kind) or self.path or self._model or self.kind
        what += f" ({self.attribute})" if self.attribute else ""
        return what if self.name in (None, what) else f"{self.name} ({what})"


def no_reward_twice(rewards: tuple[RewardSettings, ...]) -> tuple[RewardSettings, ...]:
    """ValueError for one that is there twice: give it the sum of the weights."""
    names = [(one.identity, one.name) for one in rewards]
    if twice := [one for i, one in enumerate(rewards) if names[i] in names[:i]]:
        raise ValueError(f"{twice[0].words()} is there twice: name it once, with the sum of the weights")
    return rewards


Rewards = Annotated[tuple[RewardSettings, ...], AfterValidator(no_reward_twice)]


def without_asking(value: Any) -> Any:
    """Dumped settings, with what no score depends on left out of the rewards among them."""
    if isinstance(value, dict):
        dropped = NO_MATTER if "kind" in value and "weight" in value else set()
        return {k: without_asking(v) for k, v in value.items() if k not in dropped}
    return [without_asking(v) for v in value] if isinstance(value, list | tuple) else value


def make_reward(
    settings: Sequence[RewardSettings],
    known: Mapping[str, Reward],
    cache: Path | None = None,
    policy: str | None = None,
) -> Reward:
    """The reward that the settings describe: the only one, where its weight is 1, else a weighted sum.

    known: rewards that are not made here, by kind ("gold", "trained"). cache: the file of remote scores,
    where a reward names none of its own; None: none are kept. policy: the model that a reward of kind yes_no
    without one asks. TrimtabError where one is missing, a function or model can't be loaded, a key or address is
    not there, or two rewards have one name.
    """
    if not settings:
        raise TrimtabError(
            "no reward: name at least one with --reward (in a recipe: grpo.rewards and the like), of kind "
            "function, classifier, nemotron, nemotron_local, vllm, yes_no, gold or trained."
        )
    parts = [(_make(one, known, cache, policy), one.weight) for one in settings]
    _tell_apart([reward for reward, _ in parts], settings)
    return parts[0][0] if len(parts) == 1 and parts[0][1] == 1.0 else WeightedReward(parts)


def _tell_apart(rewards: Sequence[Reward], settings: Sequence[RewardSettings]) -> None:
    """Gives rewards that share a name, and were given none, as much of their path as tells them apart: two folders
    called best become a/best and b/best. Names stay as they are where they are no other's."""
    taken = Counter(reward.name for reward in rewards)
    paths = {i: _path(reward, one) for i, (reward, one) in enumerate(zip(rewards, settings, strict=True))}
    for name in [name for name, count in taken.items() if count > 1]:
        same = {i: path for i, path in paths.items() if path and rewards[i].name == name and not settings[i].name}
        for i, path in same.items():
            ends = range(2, len(path) + 1)
            rewards[i].name = next(
                ("/".join(path[-n:]) for n in ends if sum(p[-n:] == path[-n:] for p in same.values()) == 1), name
            )


def _path(reward: Reward, settings: RewardSettings) -> tuple[str, ...]:
    """Where a local reward is, its name last."""
    if settings.kind == "function":
        where = (settings.path or "").rpartition(":")[0]
        parts = Path(where).with_suffix("").parts if where.endswith(".py") else tuple(where.split("."))
        return (*parts, reward.name)
    return () if settings.is_remote else Path(settings.model or "").parts


def _make(settings: RewardSettings, known: Mapping[str, Reward], cache: Path | None, policy: str | None) -> Reward:
    if settings.kind == "function":
        return FunctionReward(load_function(settings.path or ""), settings.name)
    if settings.kind in ("classifier", "nemotron_local"):
        made = ClassifierReward if settings.kind == "classifier" else NemotronLocalReward
        return made(
            settings.model or "",
            settings.name,
            tokenizer=settings.tokenizer,
            token_budget=settings.token_budget,
            precision=settings.precision,
            trust=settings,
        )
    if settings.kind == "yes_no":
        return _make_yes_no(settings, policy)
    if settings.is_remote:
        return _make_remote(settings, cache)
    if settings.kind not in known:
        needs = {"gold": "the sandbox", "trained": "a stage that trains a reward model"}[settings.kind]
        raise TrimtabError(f"reward of kind {settings.kind}: there is none here; it needs {needs}.")
    return known[settings.kind]


def _make_yes_no(settings: RewardSettings, policy: str | None) -> YesNoReward:
    asked = settings.model or policy
    if asked is None:
        raise TrimtabError(
            "reward of kind yes_no: name the model that is asked (model); only online_dpo asks the policy itself."
        )
    return YesNoReward(
        asked,
        settings.name or (None if settings.model else "yes_no"),
        question=settings.question,
        tokenizer=settings.tokenizer,
        token_budget=settings.token_budget,
        precision=settings.precision,
        trust=settings,
    )


def check_rewards(settings: Sequence[RewardSettings]) -> None:
    """TrimtabError where a key, an address, a function or a model is not there: told before hours of training,
    not after. Models are not loaded."""
    for one in settings:
        if one.is_remote:
            _make_remote(one, None)
        elif one.kind == "function":
            load_function(one.path or "")
        elif one.model:
            check_model_source(one.model, one, ROLES.get(one.kind))


def _make_remote(settings: RewardSettings, cache: Path | None) -> RemoteReward:
    file = Path(settings.cache).expanduser() if settings.cache else cache
    scores = ScoreCache(file) if file else None
    given = {"base_url": settings.base_url, "api_key_variable": settings.api_key_variable, "name": settings.name}
    common: dict[str, Any] = {**given, "cache": scores, **settings.model_dump(include=_ASKING)}
    if settings.kind == "nemotron":
        return NemotronReward(settings.model or NEMOTRON, attribute=settings.attribute, **common)
    return VLLMPoolingReward(model=settings.model or "", **common)
