"""The types of what is read from JSON and written to it."""

from typing import Any, TypeAlias

JsonValue: TypeAlias = Any
"""A string, number, truth value, nothing, list or object. Readers check what they need."""
JsonObject: TypeAlias = dict[str, Any]
"""One JSON object with names as keys: a row of data, a record of metrics, a section of results."""
