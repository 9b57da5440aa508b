"""Rendered texts -> token ids in pieces: what stands between two added tokens is read by itself, once.

A tokenizer parts a text at its added tokens before it does anything else, so the ids of a whole are those of its
pieces, one after the other. A prompt is so read once for all its completions, and the pieces of many rows are read
at once, by all cores. Tokenizers of which that is not known (sentencepiece puts a blank before a text's first word
only) are not read in pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
        encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
        for piece, encoding in zip(new, encodings, strict=True):
            ids = encoding.ids
            self._known[piece] = list(map(_SAME.setdefault, ids, ids))


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
