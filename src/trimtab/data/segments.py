"""Rendered texts -> token ids in pieces: what stands between two added tokens is read by itself, once.

A tokenizer parts a text at its added tokens before it does anything else, so the ids of a whole are those of its
pieces, one after the other. A prompt is so read once for all its completions, and the pieces of many rows are read
at once, by all cores. Tokenizers of which that is not known (sentencepiece puts a blank before a text's first word
only) are not read in pieces.

Where a tokenizer is known to part every word from a blank behind it, pieces are read word by word, and words are
remembered: the same few are most of every text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from tokenizers.models import BPE

from trimtab.json_types import JsonObject

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerBase

KEPT = 2048
"""Pieces whose ids are remembered: more than rows that are read ahead have."""
KEPT_WORDS, LONGEST_WORD = 300_000, 40
"""Words whose ids are remembered, and the letters of the longest."""
WORDS = re.compile("(?<=[!-~])(?= )")
"""Where words are parted: no match of the patterns below goes on from another letter to a blank, none looks back,
and NFC joins no two such letters. Of ASCII only: no table of Unicode is asked."""
WORD_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
}
"""Of Qwen 2 and 3, and of Llama 3. GPT-2's is ByteLevel's own."""
LOCAL_SPLITS = {"BertPreTokenizer", "ByteLevel", "Digits", "Punctuation", "Split", "Whitespace", "WhitespaceSplit"}
"""Pre-tokenizers that part a piece by what is in it alone."""
LOCAL_FORMS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
"""Normalizers that change a piece by what is in it alone."""
_SAME: dict[int, int] = {}
"""One object for each id: a split would else hold a new one for every token, four times the memory."""


class SegmentReader:
    """The ids of a tokenizer's texts, read piece by piece. separable: whether they may be."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._known: dict[str, list[int]] = {}
        backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        splits_special = bool(getattr(tokenizer, "split_special_tokens", False))
        self.separable = backend is not None and not splits_special and _is_local(backend)
        if backend is None or not self.separable:
            return
        # Its own call is what sets a length or padding that the file asks for aside.
        tokenizer("", verbose=False)
        self._backend = backend
        self._id_of = {token.content: int(i) for i, token in backend.get_added_tokens_decoder().items()}
        longest_first = sorted(self._id_of, key=len, reverse=True)
        self._by_words = _parts_words(backend)
        self._words: dict[str, list[int]] = {}
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def ids(self, text: str) -> list[int]:
        """The text's tokens, without what a tokenizer puts around texts."""
        pieces = self._added.split(text)
        if any(piece and piece not in self._known for piece in pieces[::2]):
            self._read(pieces[::2])
        out = list(self._known[pieces[0]]) if pieces[0] else []
        for added, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            out.append(self._id_of[added])
            out += self._known[piece] if piece else ()
        return out

    def read_ahead(self, texts: Iterable[str]) -> None:
        """Reads the pieces of many texts at once, to be remembered until they are asked for."""
        if self.separable:
            self._read(piece for text in texts for piece in self._added.split(text)[::2])

    def _read(self, pieces: Iterable[str]) -> None:
        wanted = {piece: None for piece in pieces if piece}
        if len(self._known) + len(wanted) > KEPT:
            self._known = {piece: self._known[piece] for piece in wanted if piece in self._known}
        new = [piece for piece in wanted if piece not in self._known]
        self._known.update(zip(new, self._ids_of_words(new) if self._by_words else self._encode(new), strict=True))

    def _ids_of_words(self, pieces: Sequence[str]) -> list[list[int]]:
        """Of each piece its words' ids, one after the other."""
        in_words = [WORDS.split(piece) for piece in pieces]
        found = [list(map(self._words.get, words)) for words in in_words]
        lacking = [i for i, ids in enumerate(found) if None in ids]
        asked = {
            word: None for i in lacking for word, ids in zip(in_words[i], found[i], strict=True) if ids is None
        }
        new = dict(zip(asked, self._encode(list(asked)), strict=True))
        if len(self._words) + len(new) > KEPT_WORDS:
            self._words = {}
        self._words.update((word, ids) for word, ids in new.items() if len(word) <= LONGEST_WORD)
        for i in lacking:
            found[i] = [new[w] if ids is None else ids for w, ids in zip(in_words[i], found[i], strict=True)]
        return [list(chain.from_iterable(filter(None, of_piece))) for of_piece in found]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        found = (encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False))
        return [list(map(_SAME.setdefault, ids, ids)) for ids in found]


def _is_local(backend: Tokenizer) -> bool:
    """Whether what a tokenizer makes of a piece between added tokens depends on that piece alone."""
    tokens = list(backend.get_added_tokens_decoder().values())
    if any(token.lstrip or token.rstrip or token.single_word or not token.content for token in tokens):
        return False
    # Those of two kinds are looked for one kind after the other, and the second in what a normalizer made.
    kinds = {token.normalized for token in tokens}
    if len(kinds) > 1 or (kinds == {True} and backend.normalizer is not None):
        return False
    return (
        isinstance(backend.model, BPE)
        and not backend.model.dropout
        and _all_local(_described(backend.normalizer), "normalizers", LOCAL_FORMS)
        and _all_local(_described(backend.pre_tokenizer), "pretokenizers", LOCAL_SPLITS)
    )


def _parts_words(backend: Tokenizer) -> bool:
    """Whether a tokenizer, whose parts are all local, parts texts at WORDS."""
    form, split = _described(backend.normalizer), _described(backend.pre_tokenizer)
    if split is None or (form is not None and form["type"] != "NFC"):
        return False
    *before, last = split["pretokenizers"] if split["type"] == "Sequence" else [split]
    # All must leave what they make of a word to that word, and ByteLevel writes blanks as letters.
    known = (part["type"] == "Digits" or (part["type"] == "Split" and _parts_at_blanks(part)) for part in before)
    return all(known) and last["type"] == "ByteLevel" and any(map(_parts_at_blanks, [*before, last]))


def _parts_at_blanks(part: JsonObject) -> bool:
    if part["type"] == "ByteLevel":
        return bool(part["use_regex"])
    is_known = part["type"] == "Split" and part["pattern"].get("Regex") in WORD_PATTERNS
    return is_known and part["behavior"] == "Isolated" and not part["invert"]


def _described(part: Normalizer | PreTokenizer | None) -> JsonObject | None:
    """A part of a tokenizer as tokenizer.json has it. The whole of it would write the vocabulary too."""
    return None if part is None else json.loads(part.__getstate__())


def _all_local(part: JsonObject | None, members: str, known: set[str]) -> bool:
    """Whether a part of a tokenizer, or each of its members, is one of those known, and adds no blank."""
    if part is None:
        return True
    if part["type"] == "Sequence":
        return all(_all_local(member, members, known) for member in part[members])
    return part["type"] in known and not part.get("add_prefix_space")
