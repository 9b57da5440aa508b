"""How a conversation is led: what `trimtab chat` takes by its options."""

from __future__ import annotations

from pydantic import Field

from trimtab.data.settings import TOKENS, Seed
from trimtab.data.trust import TrustSettings
from trimtab.json_types import JsonObject
from trimtab.rollout.sampler import HOTTEST

DECODING = ("temperature", "top_p", "top_k")


class ChatSettings(TrustSettings):
    """What `trimtab chat` takes. What is not set is the model's own."""

    temperature: float | None = Field(None, ge=0, le=HOTTEST)
    """Below 1 the likelier tokens gain; 0: always the likeliest. None: the model's own."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Only the likeliest tokens, up to this share of probability. None: the model's own."""
    top_k: int | None = Field(None, ge=0, le=10**7)
    """Only so many of the likeliest tokens; 0: no limit. None: the model's own."""
    max_new_tokens: int = Field(1024, gt=0, le=TOKENS)
    """Tokens of an answer at most."""
    seed: Seed = 0
    """The same seed gives the same answers to the same turns."""

    @property
    def decoding(self) -> JsonObject:
        """The settings of Decoding that are named."""
        if self.temperature == 0:
            return {"strategy": "greedy"}
        return {name: value for name in DECODING if (value := getattr(self, name)) is not None}
