"""What samples from the policy: the protocol, its settings and what a sample is.

logps are of the distribution that the token was drawn from: at the sample's temperature, renormalised
without the excluded tokens. policy_logps are the policy's own, at temperature 1 with nothing excluded;
the two are equal at temperature 1 without exclusions, up to the engine's rounding where another than the
trainer samples. At temperature 0 that distribution is a point, and logps are 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from trimtab.data.settings import IN_MEMORY, SECONDS, TOKENS, Settings, distinct
from trimtab.errors import TrimtabError

Engine = Literal["transformers", "vllm"]
TrainingEngine = Literal["transformers", "vllm", "vllm-server"]
Finish = Literal["stop", "cap", "survival"]
HOTTEST = 1000.0
"""Beyond it every token is as likely as the next."""
VLLM_COLDEST = 0.01
"""vLLM raises temperatures between 0 and this to it."""


def check_temperature(engine: TrainingEngine, temperature: float) -> None:
    """ValueError where the engine would draw at another temperature than this one."""
    if engine != "transformers" and 0 < temperature < VLLM_COLDEST:
        raise ValueError(f"vLLM samples at 0, or at {VLLM_COLDEST} and more: choose engine transformers")


class VLLMSettings(Settings):
    """What vLLM takes of the machine; see docs/vllm.md."""

    gpu_memory_utilization: float = Field(0.3, gt=0, lt=1)
    """On a GPU: the share of its memory that is the engine's, weights and cache; the trainer has the rest."""
    cache_gib: float | None = Field(None, gt=0, le=10**6)
    """GiB of keys and values. None: what gpu_memory_utilization leaves; on a CPU 1."""
    max_length: int | None = Field(None, gt=0, le=TOKENS)
    """Tokens of the longest sequence, prompt and completion. None: the model's positions."""
    eager: bool = False
    """Whether vLLM runs without graphs and compilation, which start slowly; a CPU always runs so."""


class VLLMServerSettings(Settings):
    """vLLM servers that draw; see docs/vllm.md."""

    addresses: tuple[str, ...] = ()
    """Where servers of the trained model are, such as http://HOST:8000. Several share the samples out."""
    transfer: Literal["nccl", "gloo"] = "nccl"
    """How weights go there, as the servers were told: nccl from GPU to GPU; gloo, which is trimtab's, without."""
    concurrency: int = Field(256, gt=0, le=10_000)
    """Samples that each server is asked for at once."""
    timeout: float = Field(600.0, gt=0, le=SECONDS)
    """Seconds for an answer: a sample, or an update of weights."""

    @field_validator("addresses")
    @classmethod
    def _check_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if not re.fullmatch(r"https?://[^\s/?#@]+/?", address):
                raise ValueError(f"{address!r} is no address such as http://HOST:8000")
        return distinct(value)


class Sampling(Settings):
    """How the policy is sampled. There is no top-p: a truncated distribution has no honest log-probability
    ratio, so it is refused in training."""

    temperatures: tuple[Annotated[float, Field(ge=0, le=HOTTEST)], ...] = Field((1.0,), min_length=1)
    """Cycled through a prompt's samples: the i-th has temperatures[i % len]. 0 is greedy."""
    max_new_tokens: int = Field(256, gt=0, le=TOKENS)
    """Tokens of a completion at most; one that reaches them is cut."""
    batch_size: int = Field(128, gt=0, le=IN_MEMORY)
    """Samples decoded together: memory and speed, never what is drawn (up to rounding). vLLM decides itself."""
    engine: TrainingEngine = "transformers"
    """Who draws. vllm: in this process; vllm-server: servers, on GPUs or machines of their own. Both get the
    policy's weights before every draw."""
    vllm: VLLMSettings = VLLMSettings()
    """What vLLM takes of the machine, where it draws in this process."""
    server: VLLMServerSettings = VLLMServerSettings()
    """Where the servers are."""

    @model_validator(mode="after")
    def _check_temperatures(self) -> Sampling:
        for temperature in self.temperatures:
            check_temperature(self.engine, temperature)
        if self.engine == "vllm-server" and not self.server.addresses:
            raise ValueError("engine vllm-server needs server.addresses, such as [http://HOST:8000]")
        return self


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion: its stop token is its last where finish is "stop".

    finish "cap": max_new_tokens reached. "survival": the excluded tokens' mass had all but ended it.
    """

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    policy_logps: tuple[float, ...]
    finish: Finish
    temperature: float
    reread_logps: tuple[float, ...] | None = None
    """The policy's at the sample's own temperature, where the sampler's logps are another engine's."""

    @property
    def tempered_logps(self) -> tuple[float, ...]:
        """The policy's own log-probabilities at the sample's temperature: one a token."""
        return self.logps if self.reread_logps is None else self.reread_logps


class Sampler(Protocol):
    """Draws k samples for each prompt; the same seed draws the same."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        sampling: Sampling,
        *,
        seed: int,
        stops: Sequence[int],
        excluded: Sequence[int] = (),
        survival: float = 0.0,
        places: Sequence[int] | None = None,
    ) -> list[list[Sample]]:
        """prompts: token ids. Returns k samples for each, in the prompts' order.

        places: of the prompts among all that this seed is for, where processes share them out; draws depend
        on them, and so not on how many processes there are.

        stops: tokens that end a sample. excluded: tokens never drawn; the others are renormalised.
        survival: a sample also ends once the product over its tokens of (1 - mass of the excluded tokens)
        is below this (a path of the stop_hazard estimator; see docs/methods/length_penalty.md).
        """
        ...


def check_prompts(
    prompts: Sequence[Sequence[int]],
    cap: int,
    room: int | None,
    whose: str = "the model's",
    origins: Sequence[str] = (),
) -> None:
    """TrimtabError where a prompt is empty, or leaves no room for `cap` tokens in `whose` positions, `room`.
    origins: where each comes from."""
    for i, prompt in enumerate(prompts, start=1):
        name = f"{origins[i - 1]}: the prompt" if origins else f"prompt {i}"
        if not prompt:
            raise TrimtabError(f"{name} has no tokens. Leave it out.")
        if room is not None and len(prompt) + cap > room:
            raise TrimtabError(
                f"{name} has {len(prompt)} tokens; with max_new_tokens={cap} that is more than {whose} "
                f"{room} positions. Leave the prompt out, or lower max_new_tokens."
            )


def nan_logits_error() -> TrimtabError:
    """What to raise where the policy's logits are NaN."""
    return TrimtabError("the policy's logits are NaN: its weights are broken, as after divergence.")
