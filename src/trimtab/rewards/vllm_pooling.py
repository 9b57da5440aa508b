"""A reward model on a vLLM server: `vllm serve MODEL --runner pooling`, version 0.18 or newer.

POST /pooling with the conversation, task classify: the server renders it in the model's own template and
answers the classifier's logit. Source: vllm/entrypoints/pooling/pooling/protocol.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Unpack

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.rewards.base import Reward, Scored
from trimtab.rewards.cache import ScoreCache
from trimtab.rewards.endpoint import Endpoint, RequestSettings, checked_url, key_named
from trimtab.rewards.remote import RemoteReward, RemoteRewardSettings
from trimtab.rewards.settings_base import RewardContext
from trimtab.rewards.values import as_score

VERSION = 1
"""Of what is asked and how it is read: part of the signature."""


class VLLMPoolingSettings(RemoteRewardSettings):
    """A vLLM pooling server."""

    kind: Literal["vllm"]
    """A vLLM pooling server."""
    needed: ClassVar[tuple[str, ...]] = ("base_url", "model")

    @classmethod
    def read_name(cls, name: str) -> dict[str, str] | None:
        """See RewardSettings.read_name: ":MODEL@URL". TrimtabError where one of the two is missing."""
        model, _, url = name.removeprefix(":").rpartition("@")
        if not model or not url:
            raise TrimtabError("reward vllm:…: write it as vllm:MODEL@http://HOST:PORT.")
        return {"model": model, "base_url": url}

    def make(self, context: RewardContext) -> Reward:
        """The reward, which asks nothing yet; TrimtabError for a bad address and a key that is not there."""
        return VLLMPoolingReward(self.base_url or "", self.model or "", **self.arguments(context.cache))


class VLLMPoolingReward(RemoteReward):
    """Asks a pooling server for the classifier's logit.

    base_url: the server's, with or without /v1; model: the name that it serves. api_key_variable: where the key is,
    for a server that wants one. requests: see Endpoint.
    """

    path = "/pooling"

    def __init__(
        self,
        base_url: str,
        model: str,
        name: str | None = None,
        *,
        api_key_variable: str | None = None,
        cache: ScoreCache | None = None,
        **requests: Unpack[RequestSettings],
    ) -> None:
        name = name or model
        # /pooling stands beside /v1, not in it.
        url = checked_url(name, base_url, "base_url").removesuffix("/v1")
        self.model = model
        key = key_named(name, api_key_variable, needed=api_key_variable is not None)
        endpoint = Endpoint(name, url, key, key_variable=api_key_variable, **requests)
        super().__init__(endpoint, f"vllm|{VERSION}|{url}|{model}", cache)

    def body(self, messages: list[dict[str, str]]) -> JsonObject:
        """The request of a score without its activation."""
        return {
            "model": self.model,
            "messages": messages,
            "task": "classify",
            # With it a model with one label answers sigmoid(score), which is 1.0 for every good completion.
            "use_activation": False,
            "add_generation_prompt": False,
        }

    def read(self, answer: JsonValue) -> Scored:
        """data[0].data is one number. Several are scores of tokens or labels, and none is the completion's."""
        try:
            (row,) = answer["data"]
            values = row["data"]
        except (KeyError, TypeError, ValueError):
            return Scored(None, f"no pooling answer: {answer}")
        if not isinstance(values, list) or len(values) != 1 or type(values[0]) not in (int, float):
            size = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
            return Scored(
                None, f"{size} where one score was expected: is {self.model} a classifier with one label?"
            )
        return as_score(self.name, float(values[0]))
