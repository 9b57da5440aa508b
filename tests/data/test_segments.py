"""Texts read piece by piece have the tokens of texts read whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from conftest import byte_tokenizer
from trimtab.data import segments
from trimtab.data.chat import ChatFormat
from trimtab.data.records import Record
from trimtab.data.segments import SegmentReader
from trimtab.data.split_groups import encode_records

Make = Callable[..., Any]
PIECES = st.sampled_from(
    [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_",
        "end|>",
        "user\n",
        " ",
        "  ",
        "\n\n",
        "é",
        "\u0301",
        "'s",
        "12",
        "?",
        "x\u2009",
    ]
)


@given(text=st.lists(PIECES | st.text(max_size=6), max_size=12).map("".join))
@settings(max_examples=200, deadline=None)
def test_pieces_have_the_tokens_of_the_whole(text: str) -> None:
    tokenizer = byte_tokenizer()
    reader = SegmentReader(tokenizer)
    assert reader.separable
    for _ in ("read", "remembered"):
        assert reader.ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("flags", "normalizer", "splitter"),
    [
        ({"rstrip": True}, None, None),
        ({"lstrip": True}, None, None),
        ({"single_word": True}, None, None),
        ({"normalized": True}, normalizers.Lowercase(), None),
        ({}, normalizers.Prepend("a"), None),
        ({}, None, pre_tokenizers.Metaspace(prepend_scheme="first")),
        ({}, None, pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)])),
    ],
)
def test_what_depends_on_its_neighbours_is_read_whole(flags: Any, normalizer: Any, splitter: Any) -> None:
    backend = Tokenizer(BPE({"a": 0}, []))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.add_tokens([AddedToken("<end>", **{"normalized": False, **flags})])
    assert not segments._is_local(backend)


def test_rows_read_ahead_come_out_as_one_by_one(make_tokenizer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "KEPT", 5)  # pieces are forgotten between reading ahead and asking
    rows = [
        Record(f"q{i % 7}", (f"good {i} <|im_end|>", f"bad {i}" if i % 5 else ""), origin=f"f:{i}")
        for i in range(300)
    ]
    alone = ChatFormat(make_tokenizer())
    one_by_one = [alone.encode(row, i) for i, row in enumerate(rows)]
    groups, counts = encode_records(rows, ChatFormat(make_tokenizer()), "pair")
    assert groups == [one for i, one in enumerate(one_by_one) if i % 5]
    assert counts.dropped == {"empty completion": 60}


QWEN, LLAMA = sorted(segments.WORD_PATTERNS, key=len)


def split(pattern: str, behavior: Any = "isolated") -> Any:
    return pre_tokenizers.Split(Regex(pattern), behavior)


def bytes_only(use_regex: bool = False) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


@cache
def merging_everything() -> str:
    """A BPE whose tokens go over blanks and signs, so that every other parting shows in them."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = bytes_only()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [
        "".join(pair) for pair in product(["user\n", " ", "  ", "\n\n", "é", "'s", "12", "?", "a b"], repeat=2)
    ]
    backend.train_from_iterator(
        texts * 3, BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    return str(backend.to_str())


@pytest.mark.parametrize(
    ("parts", "by_words"),
    [
        ([bytes_only(use_regex=True)], True),
        ([split(QWEN), bytes_only()], True),
        ([split(LLAMA), bytes_only()], True),
        ([pre_tokenizers.Digits(individual_digits=True), bytes_only(use_regex=True)], True),
        ([bytes_only()], False),
        ([split(r"\w+ \w+"), bytes_only()], False),
        ([split(r"\w+ \w+"), bytes_only(use_regex=True)], False),
        ([split(QWEN, "merged_with_next"), bytes_only()], False),
        ([bytes_only(), split(QWEN)], False),
    ],
)
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()])
@given(text=st.lists(PIECES | st.text(max_size=6), max_size=12).map("".join))
@settings(max_examples=40, deadline=None, phases=[Phase.generate])  # to shrink takes minutes
def test_words_have_the_tokens_of_the_whole(text: str, parts: Any, by_words: bool, normalizer: Any) -> None:
    backend = Tokenizer.from_str(merging_everything())
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizers.Sequence(parts)
    reader = SegmentReader(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert reader._by_words == by_words
    for _ in ("read", "remembered"):
        assert reader.ids(text) == backend.encode(text, add_special_tokens=False).ids
        reader._known.clear()


def test_words_are_forgotten_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "KEPT_WORDS", 4)
    monkeypatch.setattr(segments, "LONGEST_WORD", 5)
    tokenizer = byte_tokenizer()
    reader = SegmentReader(tokenizer)
    for text in ("one two three longer", "two four longer", "four five six seven two", "six"):
        assert reader.ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(reader._words) == ["six"]


def test_a_token_is_one_object() -> None:
    backend = Tokenizer(BPE({"a": 1000, "b": 1001}, []))  # Python itself has one object for each small number
    reader = SegmentReader(PreTrainedTokenizerFast(tokenizer_object=backend))
    first, second = reader.ids("ab"), reader.ids("aa")
    assert (first, second) == ([1000, 1001], [1000, 1000])
    assert first[0] is second[0] is second[1]
