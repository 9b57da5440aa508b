"""Completions for evaluation, greedy, by beam search or by sampling.

With rows of our own (rollout/transformers.py), by transformers' generate where a model does not bear them, or by
vLLM.

The engines' beam searches are not the same: vLLM's length penalty counts the prompt, transformers' does
not, and vLLM searches up to the cap where transformers stops once no beam can win. Compare methods under one
engine; its name and version are part of the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers
from torch import Tensor
from transformers import StoppingCriteria

from trimtab.data.chat import ChatFormat
from trimtab.data.records import Message
from trimtab.devices import forked_random
from trimtab.errors import TrimtabError, is_out_of_memory, reason_of
from trimtab.evaluation.settings import Decoding
from trimtab.json_types import JsonObject
from trimtab.models.inputs import feeding
from trimtab.models.policy import Policy
from trimtab.models.vocabulary import check_ids, embeddings_of
from trimtab.progress import Progress
from trimtab.rollout import vllm
from trimtab.rollout.rows import serves_cache
from trimtab.rollout.sampler import Sampling, check_prompts
from trimtab.rollout.transformers import TransformersSampler
from trimtab.rollout.watch import Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


VLLM_BATCH = 1024
"""Prompts that vLLM is given at once: it batches them itself, and what it has given is on the disk."""


@dataclass(frozen=True, slots=True)
class Generated:
    """text without special tokens; tokens counts the one that ended it."""

    text: str
    tokens: int
    terminated: bool


def stop_tokens(model: PreTrainedModel, chat: ChatFormat) -> list[int]:
    """Every token that ends a completion, of those that the model has: the template's, the tokenizer's, its own.

    TrimtabError where it does not know the one that ends a turn: it could never learn to stop.
    """
    entries = embeddings_of(model)
    if chat.end_of_turn >= entries:
        name = chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn)
        raise TrimtabError(
            f"model: a turn ends with {name!r}, token {chat.end_of_turn}, but the model has {entries} embeddings: "
            "it could never stop. Name the tokenizer that belongs to it, or add embeddings to it."
        )
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    stops = [*chat.stop_tokens, *(token for token in ends if isinstance(token, int))]
    return [token for token in dict.fromkeys(stops) if 0 <= token < entries]


@torch.no_grad()
def generate(
    policy: Policy | PreTrainedModel,
    chat: ChatFormat,
    prompts: Sequence[str | tuple[Message, ...]],
    decoding: Decoding,
    stops: list[int],
    *,
    kept: Mapping[int, Generated] | None = None,
    arrived: Callable[[int, Generated], None] = lambda place, generated: None,
    in_order: bool = False,
) -> list[Generated]:
    """One completion for each prompt, in the prompts' order.

    policy: where it is a bare model, transformers' generate decodes. Sampling draws from the decoding's seed and
    leaves the caller's random state alone. Prompts of like length share a batch, or with in_order those that follow
    each other. kept: completions that are there already, by their prompts' places. arrived: takes each other one as
    soon as it is whole. A batch of which some are there is decoded whole, since rounding depends on the batch: what
    comes out is the same as without a break.
    """
    model = policy.model if isinstance(policy, Policy) else policy
    ids = [chat.prompt_ids(prompt) for prompt in prompts]
    check_ids(ids, model, "model")
    room = getattr(model.config, "max_position_embeddings", None)
    check_prompts(ids, decoding.max_new_tokens, room)
    there = dict(kept or {})
    order = list(range(len(ids))) if in_order else sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    size = VLLM_BATCH if decoding.engine == "vllm" else decoding.batch_size
    batches = [(lo, order[lo : lo + size]) for lo in range(0, len(order), size)]
    missing = [(lo, places) for lo, places in batches if any(place not in there for place in places)]
    left, most = sum(len(places) for _, places in missing), decoding.max_new_tokens
    with Progress("completions", len(ids), "rows", len(ids) - left, most=most, stays=bool(left)) as progress:
        for lo, places in missing:

            def take(i: int, row: Sequence[int], places: Sequence[int] = places) -> None:
                if (place := places[i]) not in there:
                    there[place] = _as_text(chat, list(row), stops)
                    arrived(place, there[place])

            _decode_batch(policy, ids, lo, places, decoding, stops, Watch(progress, take))
    return [there[place] for place in range(len(ids))]


def _decode_batch(
    policy: Policy | PreTrainedModel,
    ids: Sequence[list[int]],
    lo: int,
    places: Sequence[int],
    decoding: Decoding,
    stops: list[int],
    watch: Watch,
) -> None:
    """Tells the watch of the new tokens of the prompts at these places, each by its place among them. lo: how many
    come in batches before."""
    model = policy.model if isinstance(policy, Policy) else policy
    if decoding.engine == "vllm":
        rows = _generate_with_vllm(model, ids, places, decoding, stops)
        watch.progress.advance(len(rows), tokens=sum(map(len, rows)))
        for i, row in enumerate(rows):
            watch.whole(i, row)
        return
    if isinstance(policy, Policy) and serves_cache(policy):
        _rows_of_our_own(policy, ids, places, decoding, stops, watch)
        return
    with forked_random(model.device):
        # Each batch has a seed of its own, so that one can be decoded again without those before it.
        torch.manual_seed(vllm.seed_of(decoding.seed, lo) if lo else decoding.seed)
        _generate_batch(model, [ids[i] for i in places], decoding, stops, watch)


def _rows_of_our_own(
    policy: Policy,
    ids: Sequence[list[int]],
    places: Sequence[int],
    decoding: Decoding,
    stops: list[int],
    watch: Watch,
) -> None:
    """By the sampler of training. What a prompt draws is its own: no batch changes it."""
    sampler, some = TransformersSampler(policy), [ids[i] for i in places]
    targets = None if decoding.target_length is None else [decoding.target_length] * len(some)
    if decoding.strategy == "beam":
        sampler.beam(
            some, num_beams=decoding.num_beams, length_penalty=decoding.length_penalty,
            max_new_tokens=decoding.max_new_tokens, stops=stops, targets=targets, watch=watch,
        )  # fmt: skip
        return
    samples = decoding.strategy == "sample"
    sampling = Sampling(
        temperatures=(decoding.temperature if samples else 0.0,),
        max_new_tokens=decoding.max_new_tokens,
        batch_size=decoding.batch_size,
    )
    sampler.sample(
        some, 1, sampling, seed=decoding.seed, stops=stops, places=places,
        top_p=decoding.top_p if samples else 1.0, top_k=decoding.top_k if samples else 0,
        targets=targets, watch=watch,
    )  # fmt: skip


class _Counting(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing: it counts the tokens of a batch as transformers' generate makes them."""

    def __init__(self, progress: Progress, rows: int) -> None:
        self.progress, self.rows = progress, rows

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """Which rows stop: none. input_ids: [rows, or beams of them, T]."""
        self.progress.advance(0, tokens=self.rows)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _generate_batch(
    model: PreTrainedModel, rows: list[list[int]], decoding: Decoding, stops: list[int], watch: Watch
) -> None:
    longest = max(map(len, rows))
    pad = stops[0]
    ids_BL = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)
    mask_BL = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    config = transformers.GenerationConfig(
        max_new_tokens=decoding.max_new_tokens, eos_token_id=stops, pad_token_id=pad, **decoding.arguments()
    )
    own = model.generation_config
    # transformers fills what is not given from the model's own config: a repetition penalty that one model
    # ships with would make its decoding another.
    model.generation_config = transformers.GenerationConfig(eos_token_id=stops, pad_token_id=pad)
    try:
        with feeding(model, longest, decoding.target_length):
            sequences = model.generate(
                input_ids=ids_BL, attention_mask=mask_BL, generation_config=config,
                stopping_criteria=[_Counting(watch.progress, len(rows))],
            )  # fmt: skip
    except Exception as error:  # the family's own code, with settings that it does not bear
        if is_out_of_memory(error) or isinstance(error, TrimtabError):
            raise
        raise TrimtabError(
            f"model {model.config._name_or_path}: transformers cannot generate with it: "
            f"{reason_of(error).rstrip('.')}. Mend its config.json, or name another model."
        ) from error
    finally:
        model.generation_config = own
    watch.progress.advance(len(rows))
    for i, row in enumerate(sequences[:, longest:].tolist()):
        watch.whole(i, row)


def _generate_with_vllm(
    model: PreTrainedModel, ids: Sequence[list[int]], places: Sequence[int], decoding: Decoding, stops: list[int]
) -> list[list[int]]:
    """New tokens of the prompts at these places. Every prompt has a seed of its own."""
    prompts = [ids[i] for i in places]
    dtype = str(model.dtype).removeprefix("torch.")
    engine = vllm.engine_for(model, dtype, decoding.vllm)
    check_prompts(prompts, decoding.max_new_tokens, engine.room, "the engine's")
    engine.push(model)
    ends: JsonObject = {"max_new_tokens": decoding.max_new_tokens, "stops": stops}
    if decoding.strategy == "beam":
        beams, penalty = decoding.num_beams, decoding.length_penalty
        return engine.beam(prompts, num_beams=beams, length_penalty=penalty, **ends)
    samples = decoding.strategy == "sample"
    seeds = [vllm.seed_of(decoding.seed, i) for i in places]
    temperatures = [decoding.temperature if samples else 0.0] * len(prompts)
    limits: JsonObject = {"top_p": decoding.top_p, "top_k": decoding.top_k} if samples else {}
    drawn = engine.draw(prompts, temperatures, seeds, **limits, **ends)
    return [sample.tokens for sample in drawn]


def _as_text(chat: ChatFormat, row: list[int], stops: list[int]) -> Generated:
    """New tokens up to the first stop token, if there is one."""
    end = next((i for i, token in enumerate(row) if token in stops), None)
    kept = row if end is None else row[:end]
    text = chat.tokenizer.decode(kept, skip_special_tokens=True)
    return Generated(text, len(kept) + (end is not None), end is not None)
