"""JSON inside columns of Arrow tables, as `datasets` writes mixed content to Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from trimtab.json_types import JsonValue

if TYPE_CHECKING:
    import pyarrow as pa


Decoder = Callable[[JsonValue], JsonValue]


def decoder_of(data_type: pa.DataType, field: pa.Field) -> Decoder | None:
    """What makes values of JSON text in a column of the type arrow.json: `datasets` writes mixed content so, text
    with its quotation marks. None where there is nothing to do."""
    import pyarrow.types as pt

    metadata = field.metadata or {}
    if (
        getattr(data_type, "extension_name", None) == "arrow.json"
        or metadata.get(b"ARROW:extension:name") == b"arrow.json"
    ):
        return lambda value: json.loads(value) if isinstance(value, str) else value
    if pt.is_struct(data_type):
        inner = {part.name: decode for part in data_type if (decode := decoder_of(part.type, part))}
        if inner:
            return lambda value: value and value | {name: decode(value[name]) for name, decode in inner.items()}
    elif pt.is_list(data_type) or pt.is_large_list(data_type) or pt.is_fixed_size_list(data_type):
        decode_item = decoder_of(data_type.value_type, data_type.value_field)
        if decode_item:
            return lambda value: value and [decode_item(item) for item in value]
    return None
