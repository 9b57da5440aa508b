"""Completions for evaluation, greedy, by beam search or by sampling.

With rows of our own (rollout/transformers.py), by transformers' generate where a model does not bear them, or by
vLLM.

The engines' beam searches are not the same: vLLM's length penalty counts the prompt, transformers' does
not, and vLLM searches up to the cap where transformers stops once no beam can win. Compare methods under one
engine; its name and version are part of the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers

from trimtab.data.chat import ChatFormat
from trimtab.data.records import Message
from trimtab.errors import TrimtabError, is_out_of_memory, reason_of
from trimtab.evaluation.settings import Decoding
from trimtab.json_types import JsonObject
from trimtab.models.inputs import feeding
from trimtab.models.policy import Policy
from trimtab.models.vocabulary import check_ids, embeddings_of
from trimtab.rollout import vllm
from trimtab.rollout.rows import serves_cache
from trimtab.rollout.sampler import Sampling, check_prompts
from trimtab.rollout.transformers import TransformersSampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    progress: Callable[[int], None] = lambda done: None,
) -> list[Generated]:
    """One completion for each prompt, in the prompts' order.

    policy: where it is a bare model, transformers' generate decodes. Sampling draws from the decoding's seed and
    leaves the caller's random state alone. Prompts of like length share a batch.
    """
    model = policy.model if isinstance(policy, Policy) else policy
    ids = [chat.prompt_ids(prompt) for prompt in prompts]
    check_ids(ids, model, "model")
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    room = getattr(model.config, "max_position_embeddings", None)
    check_prompts(ids, decoding.max_new_tokens, room)
    if decoding.engine == "vllm":
        rows = _generate_with_vllm(model, ids, decoding, stops)
        progress(len(rows))
        return [_as_text(chat, row, stops) for row in rows]
    out: list[Generated | None] = [None] * len(ids)
    if isinstance(policy, Policy) and serves_cache(policy):
        for lo in range(0, len(order), decoding.batch_size):
            places = order[lo : lo + decoding.batch_size]
            for place, row in zip(places, _rows_of_our_own(policy, ids, places, decoding, stops), strict=True):
                out[place] = _as_text(chat, row, stops)
            progress(lo + len(places))
        return [generated for generated in out if generated is not None]
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(decoding.seed)
        for lo in range(0, len(order), decoding.batch_size):
            places = order[lo : lo + decoding.batch_size]
            for place, generated in zip(
                places, _generate_batch(model, chat, [ids[i] for i in places], decoding, stops), strict=True
            ):
                out[place] = generated
            progress(min(lo + decoding.batch_size, len(order)))
    return [generated for generated in out if generated is not None]


def _rows_of_our_own(
    policy: Policy, ids: Sequence[list[int]], places: Sequence[int], decoding: Decoding, stops: list[int]
) -> list[list[int]]:
    """New tokens of the prompts at these places. What a prompt draws is its own: no batch changes it."""
    sampler, some = TransformersSampler(policy), [ids[i] for i in places]
    targets = None if decoding.target_length is None else [decoding.target_length] * len(some)
    if decoding.strategy == "beam":
        return sampler.beam(
            some, num_beams=decoding.num_beams, length_penalty=decoding.length_penalty,
            max_new_tokens=decoding.max_new_tokens, stops=stops, targets=targets,
        )  # fmt: skip
    samples = decoding.strategy == "sample"
    sampling = Sampling(
        temperatures=(decoding.temperature if samples else 0.0,),
        max_new_tokens=decoding.max_new_tokens,
        batch_size=decoding.batch_size,
    )
    drawn = sampler.sample(
        some, 1, sampling, seed=decoding.seed, stops=stops, places=places,
        top_p=decoding.top_p if samples else 1.0, targets=targets,
    )  # fmt: skip
    return [list(sample.tokens) for [sample] in drawn]


def _generate_batch(
    model: PreTrainedModel, chat: ChatFormat, rows: list[list[int]], decoding: Decoding, stops: list[int]
) -> list[Generated]:
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
            sequences = model.generate(input_ids=ids_BL, attention_mask=mask_BL, generation_config=config)
    except Exception as error:  # the family's own code, with settings that it does not bear
        if is_out_of_memory(error) or isinstance(error, TrimtabError):
            raise
        raise TrimtabError(
            f"model {model.config._name_or_path}: transformers cannot generate with it: "
            f"{reason_of(error).rstrip('.')}. Mend its config.json, or name another model."
        ) from error
    finally:
        model.generation_config = own
    return [_as_text(chat, row, stops) for row in sequences[:, longest:].tolist()]


def _generate_with_vllm(
    model: PreTrainedModel, prompts: list[list[int]], decoding: Decoding, stops: list[int]
) -> list[list[int]]:
    """New tokens of each prompt. Every prompt has a seed of its own."""
    if not prompts:
        return []
    dtype = str(model.dtype).removeprefix("torch.")
    engine = vllm.engine_for(model, dtype, decoding.vllm)
    check_prompts(prompts, decoding.max_new_tokens, engine.room, "the engine's")
    engine.push(model)
    ends: JsonObject = {"max_new_tokens": decoding.max_new_tokens, "stops": stops}
    if decoding.strategy == "beam":
        beams, penalty = decoding.num_beams, decoding.length_penalty
        return engine.beam(prompts, num_beams=beams, length_penalty=penalty, **ends)
    samples = decoding.strategy == "sample"
    seeds = [vllm.seed_of(decoding.seed, i) for i in range(len(prompts))]
    temperatures = [decoding.temperature if samples else 0.0] * len(prompts)
    drawn = engine.draw(prompts, temperatures, seeds, top_p=decoding.top_p if samples else 1.0, **ends)
    return [sample.tokens for sample in drawn]


def _as_text(chat: ChatFormat, row: list[int], stops: list[int]) -> Generated:
    """New tokens up to the first stop token, if there is one."""
    end = next((i for i, token in enumerate(row) if token in stops), None)
    kept = row if end is None else row[:end]
    text = chat.tokenizer.decode(kept, skip_special_tokens=True)
    return Generated(text, len(kept) + (end is not None), end is not None)
