"""YAML that means what it says: no key twice, each place its own, whole numbers as people read them.

PyYAML lets the last of two equal keys win, gives places that share an anchor one object, and reads 010 as 8 and
1:30 as 90.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from trimtab.json_types import JsonValue

MOST = 100_000
"""Values in a text, aliases written out: ten lines can stand for more than memory holds."""


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # PyYAML's stub has another type than PyYAML
        """Refuses equal keys. Here, and not where the mapping is made: there, merged keys stand beside its own."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                where = f"on line {line}" if first == line else f"on lines {first} and {line}"
                raise ValueError(f"{key.value!r} is there twice, {where}: keep one")
            lines[key.tag, key.value] = line
        return node

    def construct_whole(self, node: yaml.ScalarNode) -> int | str:
        """Reads an integer as YAML 1.2 does: decimal with leading zeros too, and sexagesimal as the text it is."""
        value: str = node.value
        text = value.replace("_", "")
        if ":" in text:
            return value
        return int(text) if re.fullmatch(r"[-+]?[0-9]+", text) else int(self.construct_yaml_int(node))

    def construct_float(self, node: yaml.ScalarNode) -> float | str:
        """Reads a number with decimals as YAML 1.2 does: sexagesimal as the text it is."""
        return node.value if ":" in node.value else self.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_float)


def read_yaml(text: str) -> JsonValue:
    """The value of a YAML text, no part of it shared between two places. ValueError, in one line, for what is no
    YAML or has a key twice."""
    try:
        return _unshared(yaml.load(text, _Loader), [0], ())  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(_one_line(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (LookupError, AttributeError, TypeError) as error:  # a tag that its text does not fit, such as !!int ""
        raise ValueError(f"a value does not fit its tag ({type(error).__name__}: {error})") from None


def _one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = ", ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (what or " ".join(str(error).split()))


def _unshared(value: JsonValue, seen: list[int], above: tuple[int, ...]) -> JsonValue:
    """A copy in which every place has an object of its own. seen: how many values there were so far."""
    seen[0] += 1
    if seen[0] > MOST:
        raise ValueError(f"its aliases stand for more than {MOST:,} values")
    if not isinstance(value, dict | list):
        return value
    if id(value) in above:
        raise ValueError("an alias stands inside of what it stands for")
    above = (*above, id(value))
    if isinstance(value, list):
        return [_unshared(item, seen, above) for item in value]
    return {key: _unshared(item, seen, above) for key, item in value.items()}
