"""Sampling with vLLM, in the process that trains.

An engine is made for an architecture, without weights; the policy's are pushed in before every draw, by vLLM's own
loader, which fuses and ties what its layers do, and nothing touches the disk. With LoRA a merged copy is pushed.
Cached prefixes are dropped with the old weights. What the engine reports are log-probabilities of the distribution
that it drew from (after temperature); the policy's own are the trainer's, computed from the same weights, so that
an importance ratio of the two corrects for the engine's arithmetic. Every sample has a seed of its own. On a CPU
the same seeds draw the same; on a GPU, where the engine's batches change its rounding, nearly always.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trimtab.data.groups import CompletionGroup
from trimtab.errors import TrimtabError, reason_of
from trimtab.models.inputs import refuse_inputs_in_vllm
from trimtab.models.lora import merged, shares_ends
from trimtab.models.policy import Policy
from trimtab.rollout.logps import evaluating, logps_of
from trimtab.rollout.sampler import Finish, Sample, Sampler, Sampling, VLLMSettings, check_prompts, nan_logits_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trimtab.rollout.vllm_server import Servers

GIB = 2**30
NOT_SHAPE = ("architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "_name_or_path",
             "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
"""Of a config: what an engine does not depend on."""
MOST_BEAMS = 64
"""Twice as many log-probabilities are asked for at each step, and an engine must know how many at most."""


@dataclass(frozen=True, slots=True)
class Completion:
    """New tokens, the stop token included where `stopped`, and the log-probability of each as it was drawn."""

    tokens: list[int]
    logps: list[float]
    stopped: bool


def load_vllm() -> ModuleType:
    """The package; TrimtabError where it is not installed."""
    # In this process: no server between the weights and the engine, and the same seeds draw the same.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if os.environ.get("TRIMTAB_DEBUG") else "ERROR")
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise _not_there(str(error)) from error


def check_installed() -> None:
    """TrimtabError where the package is missing. It is not imported: that is slow, and changes how torch works."""
    if importlib.util.find_spec("vllm") is None:
        raise _not_there("No module named 'vllm'")


def _not_there(reason: str) -> TrimtabError:
    return TrimtabError(
        f"engine vllm: vLLM cannot be imported ({reason}). Install it (pip install 'trimtab[vllm]'; without a "
        "GPU see docs/vllm.md), or choose engine transformers."
    )


def version() -> str:
    """vLLM's version; TrimtabError where it is not installed."""
    return str(load_vllm().__version__)


@contextmanager
def _apart() -> Iterator[None]:
    """vLLM's work, with the trainer's state left alone: random states, autocast, how threads are set."""
    set_threads, numbers, arrays = torch.set_num_threads, random.getstate(), np.random.get_state()
    on_cuda = torch.cuda.is_available()
    kind = "cuda" if on_cuda else "cpu"
    devices = [torch.cuda.current_device()] if on_cuda else []
    try:
        # The engine's precision is its own: under the trainer's autocast it would be rounded once more.
        with torch.random.fork_rng(devices=devices), torch.autocast(kind, enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_num_threads = set_threads  # on a CPU, vLLM puts a function there that does nothing
        random.setstate(numbers)
        np.random.set_state(arrays)


class Engine:
    """vLLM for models of one architecture and precision. Use `engine_for`, which keeps one at a time."""

    def __init__(self, model: PreTrainedModel, dtype: str, settings: VLLMSettings) -> None:
        self.vllm, self.settings = load_vllm(), settings
        positions: int | None = getattr(model.config, "max_position_embeddings", None)
        self.room = min((n for n in (settings.max_length, positions) if n is not None), default=None)
        on_cpu = not torch.cuda.is_available()
        cache = settings.cache_gib or (1.0 if on_cpu else None)
        try:
            with _apart(), tempfile.TemporaryDirectory(prefix="trimtab-vllm-") as folder:
                model.config.save_pretrained(folder)
                self.llm = self.vllm.LLM(
                    folder,
                    load_format="dummy",
                    skip_tokenizer_init=True,
                    dtype=dtype,
                    generation_config="vllm",  # the model's own would change its decoding
                    logprobs_mode="processed_logprobs",
                    max_logprobs=2 * MOST_BEAMS,
                    max_model_len=self.room,
                    enforce_eager=settings.eager or on_cpu,
                    gpu_memory_utilization=settings.gpu_memory_utilization,
                    kv_cache_memory_bytes=None if cache is None else int(cache * GIB),
                    distributed_executor_backend="uni",
                    enable_prefix_caching=True,
                    # Beam search runs what follows a beam's last whole block again for every token.
                    **({"block_size": 32} if on_cpu else {}),
                )
        except Exception as error:  # vLLM raises whatever it likes
            raise _cannot(f"serve this model ({model.config.model_type}, {dtype})", error) from error

    def push(self, model: PreTrainedModel) -> None:
        """Makes the model's weights the engine's, and forgets what the old ones computed."""
        named = [(name, weight.detach()) for name, weight in model.named_parameters()]
        try:
            with _apart():
                self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named)})
                self.llm.apply_model(repack)
                self.llm.reset_prefix_cache()
        except Exception as error:  # vLLM raises whatever it likes
            raise _cannot(f"take the weights of this model ({model.config.model_type})", error) from error

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        temperatures: Sequence[float],
        seeds: Sequence[int],
        *,
        max_new_tokens: int,
        stops: Sequence[int],
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> list[Completion]:
        """A completion for each prompt (token ids), temperature and seed; greedy where the temperature is 0."""
        params = [
            self.vllm.SamplingParams(
                temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, max_tokens=max_new_tokens, logprobs=0,
                stop_token_ids=list(stops), ignore_eos=True, detokenize=False,
            )
            for temperature, seed in zip(temperatures, seeds, strict=True)
        ]  # fmt: skip
        with _apart():
            answers = self.llm.generate(_as_tokens(prompts), params, use_tqdm=False)
        return [
            Completion(
                list(out.token_ids),
                [at[token].logprob for at, token in zip(out.logprobs, out.token_ids, strict=True)],
                out.finish_reason == "stop",
            )
            for out in (answer.outputs[0] for answer in answers)
        ]

    def beam(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_beams: int,
        length_penalty: float,
        max_new_tokens: int,
        stops: Sequence[int],
    ) -> list[list[int]]:
        """The best beam of each prompt, its stop token included.

        vLLM divides a beam's log-probability by (prompt + new tokens) ** length_penalty, transformers by new
        tokens only: the same penalty favours length less here.
        """
        if num_beams > MOST_BEAMS:
            raise TrimtabError(f"engine vllm: num_beams={num_beams}; it takes {MOST_BEAMS} at most.")
        params = self.vllm.sampling_params.BeamSearchParams(
            beam_width=num_beams, max_tokens=max_new_tokens, length_penalty=length_penalty
        )
        # vLLM's beams end at one token, which it asks its tokenizer for.
        self.llm.renderer.get_tokenizer = lambda: _StopTokenizer(stops)
        with _apart():
            answers = self.llm.beam_search(_as_tokens(prompts), params)
        return [list(answer.sequences[0].tokens[len(p) :]) for p, answer in zip(prompts, answers, strict=True)]

    def close(self) -> None:
        """Gives its memory back."""
        with _apart():
            self.llm.llm_engine.engine_core.shutdown()
            del self.llm
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class _StopTokenizer:
    """A tokenizer, as far as beam search needs one. Its eos is equal to each of the stop tokens."""

    class _StopToken(int):
        stops: frozenset[int]

        def __eq__(self, other: object) -> bool:
            return other in self.stops

        __hash__ = int.__hash__

    def __init__(self, stops: Sequence[int]) -> None:
        self.eos_token_id = self._StopToken(stops[0] if stops else -1)
        self.eos_token_id.stops = frozenset(stops)

    def decode(self, *_: object, **__: object) -> str:
        return ""


def _cannot(what: str, error: Exception) -> TrimtabError:
    return TrimtabError(
        f"engine vllm: it cannot {what}: {reason_of(error)}. See docs/vllm.md, or choose engine transformers."
    )


def repack(model: torch.nn.Module) -> None:
    """On a CPU, vLLM multiplies by a packed copy of a layer's weights. A reload renews those of the layers
    that it loads, which a tied head is not: its copy would stay the old one's (seen with vLLM 0.32)."""
    for layer in list[Any](model.modules()):  # vLLM's own classes, which have attributes beyond a module's
        if hasattr(layer, "cpu_linear") and layer.weight.numel():
            layer.quant_method.process_weights_after_loading(layer)


def _as_tokens(prompts: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": list(prompt)} for prompt in prompts]


_live: dict[str, Engine] = {}


def engine_for(model: PreTrainedModel, dtype: str, settings: VLLMSettings) -> Engine:
    """The engine for models like this one (transformers'), without its weights: push them.

    The one there is, where it fits; else it is closed and another is made: a GPU has room for one.
    dtype: float32 or bfloat16. TrimtabError where vLLM is not installed, or cannot serve the model.
    """
    refuse_inputs_in_vllm(model.config)
    shape = {name: value for name, value in model.config.to_dict().items() if name not in NOT_SHAPE}
    key = json.dumps([shape, dtype, settings.model_dump()], sort_keys=True, default=str)
    if key not in _live:
        while _live:
            _live.popitem()[1].close()
        _live[key] = Engine(model, dtype, settings)
    return _live[key]


def seed_of(*places: int) -> int:
    """A seed of its own for everything that is drawn."""
    return int(np.random.SeedSequence(places).generate_state(1)[0])


class VLLMSampler(Sampler):
    """Samples from a policy through vLLM. precision: of the engine's products. token_budget: of a pass of the
    policy's over what was drawn, which gives its own log-probabilities, under the caller's autocast."""

    def __init__(self, policy: Policy, settings: VLLMSettings, precision: str, token_budget: int) -> None:
        self.policy, self.settings, self.token_budget = policy, settings, token_budget
        self.dtype = "bfloat16" if precision == "bf16" else "float32"
        self.engine  # noqa: B018  what is wrong with it is said before anything is computed

    @property
    def engine(self) -> Engine | Servers:
        """The engine for the policy's model: another one where the model's shape has changed."""
        return engine_for(self.policy.model, self.dtype, self.settings)

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
        """See Sampler.sample. A sample's draws depend on the seed, its prompt's place and its own.

        TrimtabError for tokens to exclude, for a prompt that is empty or too long, and for logits that are NaN.
        """
        if k < 1:
            raise ValueError(f"k={k}: a prompt needs a sample")
        if excluded or survival:
            raise TrimtabError(
                "engine vllm: it cannot leave tokens out and say how much of the distribution they were "
                "(stop_hazard needs both): choose engine transformers."
            )
        engine, cap = self.engine, sampling.max_new_tokens
        check_prompts(prompts, cap, engine.room, "the engine's")
        adapter = self.policy.adapter
        plain = self.policy.model if adapter is None else merged(adapter)
        if adapter is not None and shares_ends(self.policy.model) and not shares_ends(plain):
            raise TrimtabError(
                "engine vllm: an adapter is on the head or the embeddings of a model that ties the two, as the "
                "engine does: choose other lora.targets, or engine transformers."
            )
        engine.push(plain)
        warm = [sampling.temperatures[i % len(sampling.temperatures)] for i in range(k)]
        drawn = engine.draw(
            [prompt for prompt in prompts for _ in range(k)],
            warm * len(prompts),
            [seed_of(seed, p, i) for p in places or range(len(prompts)) for i in range(k)],
            max_new_tokens=cap,
            stops=stops,
        )
        of_prompt = [drawn[lo : lo + k] for lo in range(0, len(drawn), k)]
        groups = [
            CompletionGroup(tuple(prompt), tuple(tuple(completion.tokens) for completion in completions))
            for prompt, completions in zip(prompts, of_prompt, strict=True)
        ]
        with evaluating(self.policy):
            own = tempered = logps_of(self.policy, groups, None, self.token_budget, self.policy.device)
            if any(temperature not in (0, 1) for temperature in warm):
                warmths = [[temperature or 1.0 for temperature in warm]] * len(groups)
                tempered = logps_of(self.policy, groups, warmths, self.token_budget, self.policy.device)
        return [list(map(_sample, *parts, warm)) for parts in zip(of_prompt, own, tempered, strict=True)]


def _sample(drawn: Completion, own: Tensor, tempered: Tensor, temperature: float) -> Sample:
    """own: the policy's log-probabilities of its tokens; tempered: those at the sample's own temperature."""
    if own.isnan().any():
        raise nan_logits_error()
    logps = tuple(drawn.logps) if temperature else (0.0,) * len(drawn.logps)
    finish: Finish = "stop" if drawn.stopped else "cap"
    return Sample(tuple(drawn.tokens), logps, tuple(own.tolist()), finish, temperature, tuple(tempered.tolist()))
