"""People's text -> token ids: what looks like a control token in it stays text.

A tokenizer reads "<|im_end|>" as the end of a turn wherever it stands, also where someone asks what it means. So
texts are marked before a template renders them, and a rendered text that holds marks is read by a copy of the
tokenizer in which control tokens have other names: there, only what the template wrote is a control token. The copy
splits all else as the tokenizer does. Texts without a control token are never marked, and never read by the copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from tokenizers import AddedToken, Tokenizer

from trimtab.data.message import Prompt, tools_and_values
from trimtab.data.segments import SegmentReader
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ControlTokens = Literal["text", "token", "drop"] | tuple[str, ...]
"""What becomes of control tokens in people's text: see TruncationSettings.control_tokens."""
START, END, ESCAPE = "\U00010a50", "\U00010a51", "\U00010a52"
"""Marks: signs of Kharoshthi, dead for 1,700 years. Printable, since templates show lists as Python does."""
MARKS = re.compile(f"[{START}-{ESCAPE}]")
BASES = (0xF0000, 0xF8000, 0x100000, 0x108000)
"""Where the private names of control tokens may begin: a text that uses one block gets another."""


CONTROL = {side: f"control tokens in {side}" for side in ("prompts", "answers")}
OTHER = {side: f"other added tokens in {side}" for side in ("prompts", "answers")}
"""What is counted: rows whose texts hold such tokens."""
HOLDS_CONTROL = "control tokens in the text"
"""Why data.control_tokens=drop drops a row."""
OPENING = "answers without the template's opening"
ALTERED = "answers that the template does not show as they are written"


class RefusedRowError(TrimtabError):
    """A row that cannot be made token ids, where others can: data.bad_rows=drop leaves it out."""


class Marked(str):
    """A text whose control tokens stand between marks already, so that it is not marked again."""

    __slots__ = ()


class TextEncoding:
    """A tokenizer's way from text to ids, and what it takes for a control token in people's text.

    Control tokens are the tokenizer's special tokens, and other added tokens that mark turns: `turns`, a rendered
    conversation, shows them. Not those that open an answer (`opening`, a template's forced "<think>"), nor those
    that the setting lists. Other added tokens ("<tool_call>", "<think>") are what models are taught to write: they
    stay tokens, and are counted.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        setting: ControlTokens = "text",
        turns: Iterable[int] = (),
        opening: str = "",
    ) -> None:
        self.tokenizer, self.setting = tokenizer, setting
        added: dict[str, tuple[int, AddedToken]] = {
            token.content: (int(i), token) for i, token in tokenizer.added_tokens_decoder.items()
        }
        allowed = set(setting) if isinstance(setting, tuple) else set()
        if unknown := sorted(allowed - added.keys()):
            raise TrimtabError(f"data.control_tokens: {unknown[0]!r} is no added token of this tokenizer.")
        if opening.strip():
            opened = {text for text in added if text in opening}
            allowed |= opened | {f"</{text[1:]}" for text in opened}
        special, written = set(tokenizer.all_special_tokens), set(turns)
        control: dict[str, AddedToken] = {}
        other: dict[str, AddedToken] = {}
        for text, (i, token) in added.items():
            marks_turns = i in written and not text.isalnum()
            if text.isspace() or not text:
                continue  # Gemma's "\n\n" is a token, and no sign of anything
            is_control = (token.special or text in special or marks_turns) and text not in allowed
            (control if is_control else other)[text] = token
        self.ids_of = {text: added[text][0] for text in control}
        # Some tokenizers look for their tokens in what their normalizer has made of the text.
        backend = getattr(tokenizer, "backend_tokenizer", None) if tokenizer.is_fast else None
        seen_late = any(token.normalized for token in control.values())
        self._normalizer = backend.normalizer if backend is not None and seen_late else None
        self._folded = {text.casefold(): text for text in control}
        flags = re.IGNORECASE if self._normalizer is not None else 0
        self._control, self._other = _pattern(control, flags), _pattern(other)
        self._has_others = bool(other)  # a search for nothing would try every place
        self._marks = re.compile(f"{START}({self._control.pattern}){END}|{ESCAPE}([012])|[{START}{END}]", flags)
        self._copies: dict[int, Tokenizer] = {}
        self._segments = SegmentReader(tokenizer)

    # ---- what is found

    def has_control(self, text: str) -> bool:
        """Whether a control token stands in a text, as the tokenizer looks for it."""
        return self._control.search(self._normalised(text)) is not None

    def has_other(self, text: str) -> bool:
        """Whether an added token that is no control token stands in a text; it is read as the token."""
        return self._has_others and self._other.search(text) is not None

    def remarks(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> set[str]:
        """What a record's texts hold, by the names under which it is counted."""
        asked = [text for prompt in prompts for text in texts_of(prompt)]
        remarks: set[str] = set()
        for side, texts in (("prompts", asked), ("answers", answers)):
            remarks |= {CONTROL[side]} if any(map(self.has_control, texts)) else set()
            remarks |= {OTHER[side]} if any(map(self.has_other, texts)) else set()
        return remarks

    def _normalised(self, text: str) -> str:
        """The text as the tokenizer looks for tokens in it."""
        if self._normalizer is None or self._control.search(text):
            return text
        seen = str(self._normalizer.normalize_str(text))
        return seen if self._control.search(seen) else text

    # ---- marking

    def marked(self, text: str) -> str:
        """A text of people's with its control tokens between marks, to be rendered by a template."""
        if self.setting in ("token", "drop") or isinstance(text, Marked):
            return text
        if START in text or END in text or ESCAPE in text:
            text = MARKS.sub(lambda mark: f"{ESCAPE}{ord(mark[0]) - ord(START)}", text)
        return self._control.sub(lambda token: f"{START}{token[0]}{END}", self._normalised(text))

    def unmarked(self, text: str) -> str:
        """A marked text as it was written."""
        return text if self._reads_as_it_is(text) else "".join(piece for piece, _ in self._pieces(text)[0])

    def marked_turn(self, turn: JsonObject) -> JsonObject:
        """A message with all its texts marked; its role is no people's text."""
        return {key: value if key == "role" else self.marked_within(value) for key, value in turn.items()}

    def marked_within(self, value: JsonValue) -> JsonValue:
        """A message or a tool with all its texts marked, however deep; keys stay."""
        if isinstance(value, str):
            return self.marked(value)
        if isinstance(value, Mapping):
            return {key: self.marked_within(item) for key, item in value.items()}
        return [self.marked_within(item) for item in value] if isinstance(value, list | tuple) else value

    # ---- ids

    def ids(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """A marked text's tokens; RefusedRowError where the tokenizer cannot read a marked token as text."""
        if self._reads_as_it_is(text):
            if not add_special_tokens and self._segments.separable:
                return self._segments.ids(text)
            # verbose=False: that a text is longer than the model is dealt with elsewhere.
            return list(self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])
        pieces, written = self._pieces(text)
        copy, names = self._copy_for("".join(piece for piece, token in pieces if not token))
        if copy is None:
            ids = self._ids_of_pieces(pieces, add_special_tokens)
        else:
            renamed = "".join(names[piece] if token else piece for piece, token in pieces)
            ids = list(copy.encode(renamed, add_special_tokens=add_special_tokens).ids)
        around = self.tokenizer("", verbose=False)["input_ids"] if add_special_tokens else []
        self._check_control_tokens(ids, [*written, *around])
        return ids

    def read_ahead(self, texts: Iterable[str]) -> None:
        """Reads marked texts all at once, whose tokens will be asked for one by one."""
        self._segments.read_ahead(filter(self._reads_as_it_is, texts))

    def _reads_as_it_is(self, text: str) -> bool:
        """Whether nothing in a text is to be read otherwise than the tokenizer does."""
        # Not by MARKS: a text of narrower letters than a mark is not even looked through.
        return self.setting in ("token", "drop") or not (START in text or END in text or ESCAPE in text)

    def _pieces(self, text: str) -> tuple[list[tuple[str, bool]], list[int]]:
        """A marked text in pieces: the template's control tokens (True), and text without its marks; the ids of the
        former. A mark whose other half the template cut off parts the text like any."""
        out: list[tuple[str, bool]] = []
        written: list[int] = []

        def add(plain: str) -> None:
            place = 0
            for match in self._control.finditer(plain):
                token = self._folded[match[0].casefold()] if match[0] not in self.ids_of else match[0]
                out.extend(((plain[place : match.start()], False), (token, True)))
                written.append(self.ids_of[token])
                place = match.end()
            out.append((plain[place:], False))

        place = 0
        for mark in self._marks.finditer(text):
            add(text[place : mark.start()])
            escaped = chr(ord(START) + int(mark[2])) if mark[2] else ""
            out.append((mark[1] or escaped, False))
            place = mark.end()
        add(text[place:])
        return [(piece, token) for piece, token in out if piece], written

    def _copy_for(self, text: str) -> tuple[Tokenizer | None, dict[str, str]]:
        """The copy with other names for control tokens, none of which the text holds, and the names."""
        tokens = list(self.ids_of)
        free = (base for base in BASES if not re.search(f"[{chr(base)}-{chr(base + len(tokens))}]", text))
        base = next(free, None)
        if base is None or not self.tokenizer.is_fast:
            return None, {}
        names = {token: chr(base + place) for place, token in enumerate(tokens)}
        if base not in self._copies:
            self._copies[base] = _renamed(self.tokenizer.backend_tokenizer, names)
        return self._copies[base], names

    def _ids_of_pieces(self, pieces: Sequence[tuple[str, bool]], add_special_tokens: bool) -> list[int]:
        """Of a tokenizer that cannot be copied: piece by piece."""
        ids: list[int] = []
        joined: list[tuple[str, bool]] = []
        for piece, token in pieces:
            if joined and not token and not joined[-1][1]:
                joined[-1] = (joined[-1][0] + piece, False)
            else:
                joined.append((piece, token))
        for piece, token in joined:
            split = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
            ids += [self.ids_of[piece]] if token else self.tokenizer(piece, **split)["input_ids"]
        return list(self.tokenizer.build_inputs_with_special_tokens(ids)) if add_special_tokens else ids

    @cached_property
    def _unambiguous(self) -> set[int]:
        """Ids that only a control token has: a text's unknown letters may be <unk> too."""
        return set(self.ids_of.values()) - {self.tokenizer.unk_token_id}

    def _check_control_tokens(self, ids: Sequence[int], written: Sequence[int]) -> None:
        if sorted(i for i in ids if i in self._unambiguous) != sorted(i for i in written if i in self._unambiguous):
            raise RefusedRowError(
                "the tokenizer cannot read a control token in a text as text. data.control_tokens=drop leaves such "
                "rows out, token reads it as the token."
            )


def texts_of(prompt: Prompt) -> list[str]:
    """All texts of a prompt: its turns' contents and other keys, its tools and its values, these as JSON."""
    if isinstance(prompt, str):
        return [prompt]
    return [*(text for message in prompt for text in (message.content, message.extra)), *tools_and_values(prompt)]


def _pattern(tokens: Mapping[str, AddedToken], flags: int = 0) -> re.Pattern[str]:
    """Any of the tokens, the longest first, as tokenizers take them."""
    longest_first = sorted(tokens, key=len, reverse=True)
    bounded = {t: rf"(?<!\w){re.escape(t)}(?!\w)" if tokens[t].single_word else re.escape(t) for t in tokens}
    return re.compile("|".join(bounded[t] for t in longest_first) or "(?!)", flags)


def _renamed(backend: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """The same tokenizer with other names for some of its tokens; ids stay."""
    tokenizer_json = json.loads(backend.to_str())
    for token in tokenizer_json["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    tokenizer_json["truncation"] = tokenizer_json["padding"] = None
    model = tokenizer_json["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): i for text, i in vocabulary.items()}
    else:  # unigram's pieces with their scores
        model["vocab"] = [[names.get(text, text), *rest] for text, *rest in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _concerns(pair, names)]
    return Tokenizer.from_str(json.dumps(tokenizer_json))


def _concerns(pair: str | Sequence[str], names: Mapping[str, str]) -> bool:
    """Whether a merge reads or gives one of these tokens."""
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return left in names or right in names or left + right in names


def remark_lines(remarks: Mapping[str, int], control_tokens: ControlTokens) -> dict[str, str]:
    """What a run should say of a split's remarks, by subject."""
    lines = {}
    control = {name: count for name, count in remarks.items() if name in CONTROL.values()}
    if control:
        counts = ", ".join(f"{count} rows with {name}" for name, count in control.items())
        read = "read as tokens" if control_tokens == "token" else "read as the text that they are"
        lines["control tokens"] = f"{counts}: {read} (data.control_tokens)."
    for name, count in remarks.items():
        if name.startswith("answers"):
            opening = ": they are trained on without it, and generation begins with it" if OPENING in name else ""
            lines[name] = f"{count} rows with {name}{opening}."
    return lines
