"""Nemotron reward models behind an OpenAI-compatible chat endpoint: NVIDIA's, or a NIM of one's own.

The conversation goes out, its last assistant turn is rated, and the score comes back in one of three
shapes (docs.nvidia.com/nim/large-language-models/latest/reward-model.html; the others as seen in clients):

    content "reward:-25.625" or "helpfulness:1.25,correctness:0.43,…"
    logprobs.content [{token: "helpfulness", logprob: 1.25}, …], or one entry whose token is the number
    content "-25.625"

Anything else is a failure with its reason, never a number. Scores compare completions of one prompt; those
of different prompts have no common scale (the model card says so).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from typing import ClassVar, Literal, Unpack

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.rewards.base import LARGEST, Reward, Scored
from trimtab.rewards.cache import ScoreCache
from trimtab.rewards.endpoint import Endpoint, RequestSettings, checked_url, key_named
from trimtab.rewards.remote import RemoteReward, RemoteRewardSettings
from trimtab.rewards.settings_base import RewardContext
from trimtab.rewards.values import as_score

VERSION = 1
"""Of what is asked and how it is read: part of the signature."""
MODEL = "nvidia/llama-3.1-nemotron-70b-reward"
URL = "https://integrate.api.nvidia.com/v1"
URL_VARIABLE = "NVIDIA_API_BASE_URL"
KEY_VARIABLE = "NVIDIA_API_KEY"
ATTRIBUTES = {"reward", "helpfulness", "correctness", "coherence", "complexity", "verbosity"}
"""What NVIDIA's reward models rate."""

MOST, LONGEST = 32, 64
"""Attributes of a model, and characters of a name."""

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
# NaN and infinities are told from text that is no score at all, to be reported as what they are.
VALUE = rf"(?:{NUMBER}|[-+]?(?i:nan|inf|infinity))"
PAIRS = re.compile(rf"\s*\w+\s*:\s*{VALUE}(?:\s*,\s*\w+\s*:\s*{VALUE})*\s*,?\s*")
PAIR = re.compile(rf"(\w+)\s*:\s*({VALUE})")


class NemotronSettings(RemoteRewardSettings):
    """NVIDIA's endpoint, or one like it."""

    kind: Literal["nemotron"]
    """NVIDIA's endpoint, or one like it."""
    model: str | None = None
    """The model, as the server names it; None: the 70B model."""
    attribute: str | None = None
    """Which of a model's several ratings."""
    base_url: str | None = None
    """Where the server is: a plain address; None: $NVIDIA_API_BASE_URL, or NVIDIA's."""
    only_within_prompts: ClassVar[bool] = True

    @classmethod
    def read_name(cls, name: str) -> dict[str, str] | None:
        """See RewardSettings.read_name: the kind alone."""
        return None if name else {}

    @property
    def what(self) -> str:
        """The model, and which of its ratings."""
        return (self.model or MODEL) + (f" ({self.attribute})" if self.attribute else "")

    @property
    def identity(self) -> tuple[str | None, ...]:
        """The model and which of its ratings: two settings with the same are the same reward."""
        return ("model", self.model or MODEL, self.attribute)

    def make(self, context: RewardContext) -> Reward:
        """The reward, which asks nothing yet; TrimtabError for a bad address and a key that is not there."""
        return NemotronReward(
            self.model or MODEL, attribute=self.attribute, base_url=self.base_url, **self.arguments(context.cache)
        )


class NemotronReward(RemoteReward):
    """Asks a chat endpoint for ratings.

    model: as the endpoint names it. attribute: which of several to take; None where there is one.

    base_url: None: $NVIDIA_API_BASE_URL, or NVIDIA's own. api_key_variable: where the key is. Without it
    $NVIDIA_API_KEY is used, but only for NVIDIA's hosts and for an address that came from the environment
    too: a recipe of someone else's does not send it elsewhere. requests: see Endpoint.
    """

    path = "/chat/completions"
    _known_parts: frozenset[str] = frozenset()

    def __init__(
        self,
        model: str = MODEL,
        name: str | None = None,
        *,
        attribute: str | None = None,
        base_url: str | None = None,
        api_key_variable: str | None = None,
        cache: ScoreCache | None = None,
        **requests: Unpack[RequestSettings],
    ) -> None:
        name = name or model
        address = base_url or os.environ.get(URL_VARIABLE) or URL
        url = checked_url(name, address, "base_url" if base_url else URL_VARIABLE)
        trusted = base_url is None or _is_nvidias(url)
        variable = api_key_variable or (KEY_VARIABLE if trusted else None)
        key = key_named(name, variable, needed=bool(api_key_variable) or _is_nvidias(url))
        self.model, self.attribute = model, attribute
        signature = f"nemotron|{VERSION}|{url}|{model}|{attribute or ''}"
        super().__init__(Endpoint(name, url, key, key_variable=variable, **requests), signature, cache)

    def body(self, messages: list[dict[str, str]]) -> JsonObject:
        """The request of a chat completion."""
        return {"model": self.model, "messages": messages}

    def read(self, answer: JsonValue) -> Scored:
        """The attribute's score; the others are its breakdown. TrimtabError where the model rates other things."""
        ratings = read_attributes(answer, {*ATTRIBUTES, *([self.attribute] if self.attribute else [])})
        if isinstance(ratings, str):
            return Scored(None, ratings)
        attribute = self.attribute or (next(iter(ratings)) if len(ratings) == 1 else "reward")
        if attribute not in ratings:
            raise TrimtabError(
                f"reward {self.name}: {self.model} rates {', '.join(ratings)}, and not {attribute}. "
                "Name one of them with the reward's 'attribute'."
            )
        score = as_score(f"{self.name} gave {attribute}:", ratings[attribute])
        if score.score is None:
            return Scored(None, f"{self.name} gave {attribute}:{ratings[attribute]}")
        return Scored(score.score, breakdown=self._parts(ratings) if len(ratings) > 1 else {})

    def _parts(self, ratings: Mapping[str, float]) -> dict[str, float]:
        """The breakdown. Of a server that makes up names as it goes, the first MOST are kept: each is a metric."""
        room = MOST - len(self._known_parts)
        self._known_parts |= set([name for name in ratings if name not in self._known_parts][:room])
        return {
            name: value
            for name, value in ratings.items()
            if name in self._known_parts and abs(value) <= LARGEST  # NaN is not
        }


def _is_nvidias(url: str) -> bool:
    return re.fullmatch(r"https://([\w-]+\.)*nvidia\.com(:443)?(/.*)?", url) is not None


def read_attributes(answer: JsonValue, attributes: Set[str]) -> dict[str, float] | str:
    """Attribute -> value, perhaps not finite; or why the answer has none. A number alone is the attribute reward.

    attributes: names that log-probabilities may be read under; a language model's tokens are not attributes.
    """
    try:
        (choice,) = answer["choices"]
        content = choice["message"].get("content")
    except (KeyError, ValueError, TypeError, AttributeError):
        return f"no chat completion: {answer}"
    if isinstance(content, int | float) and not isinstance(content, bool):
        return {"reward": float(content)}
    text = content if isinstance(content, str) else ""
    if PAIRS.fullmatch(text):
        pairs = PAIR.findall(text)
        names = [name for name, _ in pairs]
        if len(pairs) > MOST or max(map(len, names)) > LONGEST:
            return f"{len(pairs)} attributes, or a name longer than {LONGEST} characters"
        if len(set(names)) < len(names):
            return f"an attribute twice in {text!r}"
        return {name: float(value) for name, value in pairs}
    if re.fullmatch(rf"\s*{VALUE}\s*", text):
        return {"reward": float(text.strip())}  # \s holds separators that float() refuses
    return _from_logprobs(choice, attributes) or f"no score in {content!r}"


def _from_logprobs(choice: JsonObject, attributes: Set[str]) -> dict[str, float] | None:
    logprobs = choice.get("logprobs")
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        return None
    tokens = [str(entry.get("token", "")).strip() for entry in entries]
    if len(entries) == 1 and re.fullmatch(VALUE, tokens[0]):
        return {"reward": float(tokens[0])}
    values = [entry.get("logprob") for entry in entries]
    if set(tokens) <= attributes and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return {token: float(v) for token, v in zip(tokens, values, strict=True) if v is not None}
    return None
