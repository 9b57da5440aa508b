"""How a reward model reads a prompt with its completion: as a conversation, or as a pair of texts.

`TurnFormat`, for tokenizers with a chat template (and decoders without one): the conversation as the
template renders it, to the very end. ChatFormat stops at the end-of-turn token, because the policy does;
reward models are trained and published on everything that the template writes, ChatML's newline behind
the last turn included, and are read at the last token of that.

`PairFormat`, for encoders: two texts as the tokenizer joins them, [CLS] prompt [SEP] completion [SEP].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from trimtab.data.chat import ChatFormat, Dropped, TruncationSettings, make_group, tokens_of, unusable
from trimtab.data.encoding import CONTROL, HOLDS_CONTROL, TextEncoding
from trimtab.data.groups import CompletionGroup, common_prefix_length
from trimtab.data.message import CARRIED, Prompt, Turns
from trimtab.data.records import Record
from trimtab.data.template_features import TemplateFeatures
from trimtab.errors import TrimtabError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RewardFormat(Protocol):
    """What a reward model needs to know of how its rows are written."""

    tokenizer: PreTrainedTokenizerBase
    ends: tuple[str, ...]
    """What an answer may hold at its end that is put there anyway."""
    token_types: bool
    """Whether the completion's tokens have token type 1, the prompt's 0."""
    vocabulary: int | None
    """How many tokens the model knows; a pad token is one of them. None: not known yet."""

    @property
    def features(self) -> TemplateFeatures:
        """Which parts of a message besides its text it writes."""

    @property
    def variables(self) -> frozenset[str]:
        """The variables of the chat template that it reads."""

    @property
    def pad_token_id(self) -> int | None:
        """What rows are padded with: a token that ends no row, where the tokenizer has such a one."""

    def tokens(
        self, prompt: Prompt, completions: Sequence[str], origin: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        """A prompt's tokens and those of each completion after it, nothing truncated."""

    def encode(self, record: Record, index: int = -1) -> CompletionGroup | Dropped:
        """A record as token ids, truncated; or why it can't be used."""


def _in_vocabulary(token: int | None, vocabulary: int | None) -> bool:
    """Whether a token is one that a model of so many embeddings knows."""
    return token is not None and (vocabulary is None or 0 <= token < vocabulary)


def reward_format(
    tokenizer: PreTrainedTokenizerBase, truncation: TruncationSettings | None = None
) -> TurnFormat | PairFormat:
    """The format that suits a tokenizer: a pair of texts where it has a CLS token and no chat template."""
    pair = not tokenizer.chat_template and tokenizer.cls_token_id is not None
    return PairFormat(tokenizer, truncation) if pair else TurnFormat(tokenizer, truncation)


class TurnFormat(ChatFormat):
    """Prompt and completion as one rendered text: its tokens are those of the text as a whole.

    Without a template prompt and completion are joined as they are, and eos put behind. A prompt's tokens
    are those that all its rows share: a reward model generates nothing, so a completion whose first
    letters merge with the prompt's last keeps the tokens that the whole text has.
    Truncation as in ChatFormat.
    """

    token_types = False
    vocabulary: int | None = None

    def tokens(
        self, prompt: Prompt, completions: Sequence[str], origin: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        """A prompt's tokens and those of each completion after it, to the very end of what the template writes."""
        prompt = self.plain_without_template(prompt)
        completions = [self.target_text(completion) for completion in completions]
        messages = self.messages(prompt, origin)
        if not prompt and messages is None:
            return super().tokens(prompt, completions, origin)
        start = self.prompt_ids(prompt, origin)
        rows = [self._row(prompt, messages, completion) for completion in completions]
        # At least one token of each row is its completion's.
        shared = min(common_prefix_length([start, *rows]), min(map(len, rows)) - 1)
        if shared < 1:
            raise TrimtabError(f"{origin}: the chat template renders nothing before an answer.".removeprefix(": "))
        return rows[0][:shared], [row[shared:] for row in rows]

    def _row(self, prompt: Prompt, messages: Turns | None, completion: str) -> list[int]:
        if messages is not None:
            return self._ids(self._apply(messages, completion))
        assert isinstance(prompt, str)
        ids = self._ids(self.content.marked(prompt + completion), add_special_tokens=True)
        while ids and ids[-1] == self.tokenizer.eos_token_id:
            ids.pop()
        return [*ids, self.end_of_turn]

    @property
    def pad_token_id(self) -> int:
        """Transformers reads a decoder at its last token that isn't padding. With a pad token that also
        ends rows (GPT-2's only special token) that is the token before."""
        tokenizer = self.tokenizer
        last = self._ids(self.suffix)[-1] if self.suffix else self.end_of_turn
        named = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
        candidates = [*named, *sorted(tokenizer.added_tokens_decoder)]
        free = (int(t) for t in candidates if t not in (None, last) and _in_vocabulary(t, self.vocabulary))
        return next(free, last)


class PairFormat:
    """Two texts, as an encoder's tokenizer joins them.

    A conversation is the text of its only user turn, or else a line "role: content" for each turn. The
    group's prompt is everything before the completion's first token, its completion the rest.

    Truncation: a completion is cut at its end, the closing special tokens kept. A prompt that leaves
    fewer tokens than `min_completion_length` (or than the longest completion has) is cut at its end too,
    just so far, and then all its completions count as truncated: an encoder's few positions would
    otherwise drop every row with a long prompt.
    """

    vocabulary: int | None = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase, truncation: TruncationSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.truncation = truncation or TruncationSettings()
        self.features = TemplateFeatures(frozenset(CARRIED))  # see Message.text
        self.variables: frozenset[str] = frozenset()
        self.ends: tuple[str, ...] = ()
        self.content = TextEncoding(tokenizer, self.truncation.control_tokens)
        self.remarks: set[str] = set()
        self.max_length = min(self.truncation.max_length, tokenizer.model_max_length)
        """Tokens of a row: the setting, or fewer where the tokenizer knows of fewer."""
        self._probe()

    def _probe(self) -> None:
        """Reads off one pair what stands before, between and behind two texts."""
        if not self.tokenizer.is_fast:
            raise TrimtabError("the tokenizer can't tell a prompt's tokens from a completion's: use a fast one.")
        encoding = self.tokenizer("a", "b")
        ids, owners = list(encoding["input_ids"]), encoding.sequence_ids(0)
        first, second = ([i for i, owner in enumerate(owners) if owner == text] for text in (0, 1))
        if not first or not second or first[-1] > second[0]:
            raise TrimtabError("the tokenizer does not join a prompt and a completion in this order.")
        self.opening = ids[: first[0]]
        self.between = ids[first[-1] + 1 : second[0]]
        self.closing = ids[second[-1] + 1 :]
        types = list(encoding.get("token_type_ids", []))
        self.token_types = any(types)
        if self.token_types and types != [int(i >= second[0]) for i in range(len(ids))]:
            raise TrimtabError(f"the tokenizer gives a pair of texts unusual token types: {types}.")

    @property
    def pad_token_id(self) -> int | None:
        """What rows are padded with: the pad token, else another that the model knows."""
        tokenizer = self.tokenizer
        named = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id)
        return next((int(token) for token in named if _in_vocabulary(token, self.vocabulary)), None)

    def _ids(self, text: str) -> list[int]:
        return self.content.ids(self.content.marked(text))

    @staticmethod
    def text(prompt: Prompt) -> str:
        """A prompt as one text."""
        if isinstance(prompt, str):
            return prompt
        if len(prompt) == 1 and prompt[0].role == "user":
            return prompt[0].text
        return "\n".join(f"{message.role}: {message.text}" for message in prompt)

    def tokens(
        self, prompt: Prompt, completions: Sequence[str], origin: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        """A pair's tokens: all before the completion's first, and each completion's with what closes the pair."""
        before = [*self.opening, *self._ids(self.text(prompt)), *self.between]
        return before, [[*self._ids(completion), *self.closing] for completion in completions]

    def read_ahead(self, records: Sequence[Record]) -> None:
        """Tokenizes the texts of these records all at once."""
        texts = (text for record in records for text in (self.text(record.prompt), *record.completions))
        self.content.read_ahead(map(self.content.marked, texts))

    def encode(self, record: Record, index: int = -1) -> CompletionGroup | Dropped:
        """A record as token ids, truncated; or why it can't be used."""
        asked = record.prompts or (record.prompt,)
        self.remarks = self.content.remarks(asked, record.completions)
        if problem := unusable(record):
            return Dropped(problem, record.origin)
        if self.truncation.control_tokens == "drop" and self.remarks & {*CONTROL.values()}:
            return Dropped(HOLDS_CONTROL, record.origin)
        prompts, completions = tokens_of(self, record, asked)
        # Some letters are no token at all for some tokenizers.
        if min(map(len, completions)) == len(self.closing):
            return Dropped("empty completion", record.origin)
        longest = max(map(len, completions))
        least = max(self.truncation.min_completion_length, len(self.closing) + 1)
        before = max(map(len, prompts))
        room = max(self.max_length - before, min(least, longest))
        excess = before + room - self.max_length
        if excess > 0:
            kept = before - len(self.between) - excess
            # Where prompts differ, cutting them might leave what they have in common.
            if kept <= len(self.opening) or len(prompts) > 1:
                return Dropped("prompt too long", record.origin)
            prompts = [prompts[0][:kept] + self.between]
        cut = [c if len(c) <= room else c[: room - len(self.closing)] + self.closing for c in completions]
        truncated = [excess > 0 or len(c) > room for c in completions]
        if not all(prompts):
            return Dropped("empty prompt", record.origin)
        return make_group(record, index, prompts, cut, truncated)
