"""What token ids depend on beside the rows: all that a format and an expansion of rows hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trimtab.data.chat import ChatFormat
from trimtab.data.pairs import PairFormat, TurnFormat
from trimtab.data.rows import TruncationSettings
from trimtab.data.settings import Settings
from trimtab.json_types import JsonObject, JsonValue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMATS = (ChatFormat, TurnFormat, PairFormat)
"""Of others nobody knows what they hold."""
PLACES = {"name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file"}
"""Of a tokenizer's arguments: where its files lie, which changes nothing."""


def signature_of(chat: object, expand: object) -> JsonObject | None:
    """What the groups that a format makes of records depend on; None where that cannot be told."""
    if not isinstance(chat, ChatFormat | PairFormat) or type(chat) not in FORMATS or not chat.tokenizer.is_fast:
        return None
    settings = getattr(expand, "__self__", None)
    if expand is not None and not isinstance(settings, Settings):
        return None
    of_day: JsonObject = {}
    if isinstance(chat, ChatFormat):
        of_day = {"values": chat.values, "day": str(chat.day) if chat.asks_for_today else None}
    return {
        "format": type(chat).__name__,
        "truncation": chat.truncation.model_dump(mode="json", include=set(TruncationSettings.model_fields)),
        "drops_refused": getattr(chat, "drops_refused", None),
        "tokenizer": _of_tokenizer(chat.tokenizer),
        "expansion": None if settings is None else [type(settings).__name__, settings.model_dump(mode="json")],
        **of_day,
    }


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[JsonValue]:
    arguments = {name: value for name, value in tokenizer.init_kwargs.items() if name not in PLACES}
    return [
        type(tokenizer).__name__,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        tokenizer.model_max_length,
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        json.dumps(arguments, sort_keys=True, default=str),
    ]
