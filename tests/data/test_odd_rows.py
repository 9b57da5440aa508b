"""Every odd row is used, left out and counted, or refused in one line: nothing in a row goes without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import byte_tokenizer
from data.odd_rows import ODD, Odd, pair
from trimtab.audit.findings import examine
from trimtab.data.chat import ChatFormat, TruncationSettings
from trimtab.data.groups import CompletionGroup
from trimtab.data.split_groups import SplitCounts, encode_records
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError

TOOLS = (
    "{% if style is defined %}[{{ style }}]{% endif %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m['content'] }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ m.tool_call_id or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
METHODS: tuple[Any, ...] = ("first", "pair", "labelled", "none")


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(byte_tokenizer(TOOLS), TruncationSettings(max_length=4000))


def written(rows: list[Any], folder: Path) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(chat: ChatFormat, groups: list[CompletionGroup]) -> str:
    return "".join(chat.tokenizer.decode([*g.prompt, *token]) for g in groups for token in g.completions)


def encoded(odd: Odd, chat: ChatFormat, folder: Path, method: Any, **settings: Any) -> tuple[Any, SplitCounts, Any]:
    splits = split_records(DataSettings(train=written([pair(), odd.row], folder), **settings))
    groups, counts = encode_records(splits.train, chat, method)
    assert counts.rows == counts.used + sum(counts.dropped.values())
    assert len(splits.train) + len(splits.unreadable) == 2
    return groups, counts, splits


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_odd_row(odd: Odd, chat: ChatFormat, tmp_path: Path) -> None:
    if odd.what == "refused":
        with pytest.raises(TrimtabError) as found:
            split_records(DataSettings(train=written([pair(), odd.row], tmp_path)))
        assert str(found.value).startswith("rows.jsonl:2: ")
        assert odd.said in str(found.value)
        assert len(str(found.value).splitlines()) == 1
        assert len(str(found.value)) < 1200
        _, _, splits = encoded(odd, chat, tmp_path, "pair", bad_rows="drop")
        assert len(splits.unreadable) == 1
        return
    for method in METHODS if odd.what != "one" else ("first", "none"):
        groups, counts, splits = encoded(odd, chat, tmp_path, method)
        if odd.what == "left out":
            assert len(splits.unreadable) == 1
            assert odd.said in splits.unreadable[0]
        elif odd.what == "dropped":
            assert method != "pair" or any(odd.said in name for name in counts.dropped)
        elif odd.what == "ignored":
            in_answer = "end of turn" in odd.said
            assert (method == "none" and in_answer) or any(odd.said in name for name in counts.ignored)
            assert counts.used == 2
            assert "<|im_end|><|im_end|>" not in texts(chat, groups).replace("\n", "")
        else:
            assert counts.used == 2
            assert not counts.ignored
            if method != "none" and odd.said:
                assert odd.said in texts(chat, groups).replace('\\"', '"')
    found_by_audit = examine(DataSettings(train=written([pair(), odd.row], tmp_path)))
    assert found_by_audit.splits["train"].rows + sum(f.count for f in found_by_audit.unreadable.values()) == 2


def test_there_are_eighty() -> None:
    assert len({odd.name for odd in ODD}) == len(ODD) >= 80


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.one_of(st.none(), TEXTS, st.integers(), st.floats(), st.lists(TEXTS, max_size=2), st.booleans())
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.one_of(TEXTS, VALUES),
        "chosen": st.one_of(TEXTS, VALUES),
        "rejected": st.one_of(TEXTS, VALUES),
        "score_chosen": VALUES,
        "score_rejected": VALUES,
        "tools": VALUES,
        "extra": VALUES,
    },
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, min_size=1, max_size=5))
def test_what_is_read_is_used_or_dropped(rows: list[Any], chat: ChatFormat, tmp_path: Path) -> None:
    """From a file, and from a folder with the same file: the same rows, each accounted for."""
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    found = []
    for source in (written([pair(), *rows], tmp_path), written([pair(), *rows], folder)):
        where = source if source.endswith("rows.jsonl") and str(folder) not in source else str(folder)
        splits = split_records(DataSettings(train=where, bad_rows="drop"))
        groups, counts = encode_records(splits.train, chat, "none")
        assert len(splits.train) + len(splits.unreadable) == 1 + len(rows)
        assert counts.rows == counts.used + sum(counts.dropped.values())
        assert len(groups) == counts.used
        found.append((counts.model_dump(exclude={"dropped_rows"}), [g.prompt for g in groups]))
    assert found[0] == found[1]
