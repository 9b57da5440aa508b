"""Which tokens end a turn and pad, as a tokenizer, a model's config and its generation config have to say alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.data.chat import ChatFormat
from trimtab.notices import warn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def agree_on_special_tokens(chat: ChatFormat, model: PreTrainedModel) -> None:
    """Makes tokenizer, config and generation config agree on what ends a turn, before they are saved.

    A base model's eos is often <|endoftext|> while its template ends turns otherwise: a model saved
    like that never stops. eos becomes the end-of-turn token; generation stops at the old one too.
    """
    tokenizer, entries = chat.tokenizer, int(model.get_input_embeddings().weight.shape[0])
    stops = [token for token in chat.stop_tokens if token < entries]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.end_of_turn)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= entries:
        warn(
            f"the pad token {tokenizer.pad_token!r} is token {tokenizer.pad_token_id}, but the model has {entries} "
            f"embeddings: {tokenizer.eos_token!r} is what the saved model is padded with.",
        )
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    eos = model.generation_config.eos_token_id
    eos_tokens = eos if isinstance(eos, list) else [eos]
    stops += [t for t in eos_tokens if isinstance(t, int) and 0 <= t < entries and t not in stops]
    model.config.eos_token_id = chat.end_of_turn
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
