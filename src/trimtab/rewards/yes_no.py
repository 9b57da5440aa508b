"""A language model that is asked whether a completion is good: its log odds of yes against no.

Garg et al. 2025 (arXiv 2502.16182) take p = p(yes) / (p(yes) + p(no)) at the first token of the answer. Our score
is its logit, log p(yes) − log p(no): the same order and so the same pairs, without p's rounding near 0 and 1, and
on the scale of a Bradley-Terry reward.
Where we depart from the authors' code: the question is one turn of the model's own chat template, where it has one,
and not bare text; all spellings of the two words count that are single tokens (it adds up the tokens of " Yes", and
of " No"); the question's wording is our own, and the same for every kind of prompt (it has four).

Dimension suffixes: _C completions, _V vocabulary.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trimtab.data.chat import load_tokenizer
from trimtab.data.encoding import Marked
from trimtab.data.groups import CompletionGroup, common_prefix_length, pack
from trimtab.data.hashing import hash_weights
from trimtab.data.pairs import PairFormat, TurnFormat
from trimtab.data.trust import TrustSettings
from trimtab.devices import best_device
from trimtab.errors import TrimtabError
from trimtab.models.gguf.place import model_place
from trimtab.models.loading import load_policy
from trimtab.models.lora import hash_model
from trimtab.models.policy import Policy
from trimtab.models.reward_model import for_scoring
from trimtab.models.settings import Precision, resolve_precision, trusting
from trimtab.rewards.base import Prompt
from trimtab.rewards.local import LocalReward, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1
"""Of how rows are rendered and read: part of the signature."""
QUESTION = """Here is a request, and a response to it. Is the response correct, helpful and to the point?

Request:
{prompt}

Response:
{completion}

Answer with one word, Yes or No."""
PLACES = re.compile(r"\{(prompt|completion)\}")
OTHER = "…"
"""A completion that begins like no other: rows are compared with its row to see where completions begin."""


def answer_tokens(tokenizer: PreTrainedTokenizerBase, source: str) -> tuple[list[int], list[int]]:
    """Token ids of yes and of no: every spelling that is one token, or the first tokens of "Yes" and "No" where one
    of the words has none. TrimtabError where these are the same."""
    answers = []
    for word in ("yes", "no"):
        cased = (word, word.capitalize(), word.upper())
        spelt = [_ids(tokenizer, before + spelling) for spelling in cased for before in ("", " ")]
        single = {ids[0] for ids in spelt if len(ids) == 1}
        answers.append({token for token in single if tokenizer.decode([token]).strip().lower() == word})
    if not all(answers):
        answers = [set(_ids(tokenizer, word)[:1]) for word in ("Yes", "No")]
    yes, no = answers
    if not yes or not no or yes & no:
        raise TrimtabError(f"reward yes_no {source}: its tokenizer's tokens do not tell 'Yes' from 'No'.")
    return sorted(yes), sorted(no)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


class QuestionFormat(TurnFormat):
    """The question as the model reads it, up to where its answer begins. What all completions' rows share before
    the completion is the prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, question: str) -> None:
        super().__init__(tokenizer)
        self.question = question

    def asked(self, prompt: Prompt, completion: str) -> str:
        """What the user's turn says. Braces and control tokens in either text stand for themselves."""
        said = {"prompt": PairFormat.text(prompt), "completion": completion}
        marked = {name: self.content.marked(text) for name, text in said.items()}
        return Marked(PLACES.sub(lambda place: marked[place[1]], self.question))

    def tokens(
        self, prompt: Prompt, completions: Sequence[str], origin: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        """The tokens that the rows of all completions begin with, and what each row has beyond them: one token at
        least."""
        rows = [self.prompt_ids(self.asked(prompt, completion)) for completion in completions]
        other = self.prompt_ids(self.asked(prompt, OTHER))
        # At least one token of each row is its completion's.
        shared = max(1, min(common_prefix_length([other, *rows]), min(map(len, rows)) - 1))
        return rows[0][:shared], [row[shared:] for row in rows]


class YesNoReward(LocalReward):
    """Scores with a folder or hub model that transformers loads as a causal language model.

    Completions of one prompt share its pass. token_budget: tokens of a pass. precision: of the products. The model
    is loaded when it is first asked.
    """

    def __init__(
        self,
        source: str,
        name: str | None = None,
        *,
        question: str | None = None,
        tokenizer: str | None = None,
        token_budget: int = 8192,
        precision: Precision = "float32",
        trust: TrustSettings | None = None,
    ) -> None:
        source, tokenizer = model_place(source), model_place(tokenizer) if tokenizer else None
        self.source, self.trust = source, trust
        self.name = name or Path(source).name
        self.token_budget = token_budget
        self.device = best_device()
        self.precision = resolve_precision(precision, self.device)
        tokens = load_tokenizer(tokenizer or source, trust)
        self.form = QuestionFormat(tokens, question or QUESTION)
        self.yes, self.no = answer_tokens(tokens, source)
        # A hub name says nothing of its revision, so the weights speak for it.
        local = Path(source).expanduser().is_dir()
        weights = hash_model(source) if local else f"{source}:{hash_weights(self.policy.model.state_dict())}"
        reads = "" if tokenizer is None else f"|{hash_model(tokenizer)}"
        asked = hashlib.blake2b(self.form.question.encode(), digest_size=16).hexdigest()
        self.signature = f"yes_no|{VERSION}|{weights}{reads}|{self.precision}|{asked}"

    @cached_property
    def policy(self) -> Policy:
        """The language model, loaded when it is first needed. TrimtabError where its tokenizer is another's."""
        policy = load_policy(self.source, trusting(self.trust))
        entries = int(policy.model.get_input_embeddings().weight.shape[0])
        if len(self.form.tokenizer) > entries:
            raise TrimtabError(
                f"reward yes_no {self.source}: the tokenizer has {len(self.form.tokenizer)} entries, but the model "
                f"{entries} embeddings. They do not belong together: name the right tokenizer."
            )
        policy.to(self.device).eval()
        return policy

    @property
    def limit(self) -> int | None:
        """Tokens of the longest row, by the config's number of positions."""
        positions: int | None = getattr(self.policy.model.config, "max_position_embeddings", None)
        return positions

    def _passes(self, rows: Mapping[int, Row]) -> Iterator[tuple[list[int], list[CompletionGroup]]]:
        if self.policy.uses_tree:
            yield from self._packed_passes(rows)
            return
        for members, alone in super()._passes(rows):
            yield members, [for_scoring(group) for group in alone]

    def _score(self, groups: list[CompletionGroup]) -> list[float]:
        batch = pack(groups).to(self.device)
        bf16 = self.precision == "bf16"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            logits_CV = self.policy.next_logits(batch)
        yes_C, no_C = (logits_CV[:, tokens].logsumexp(-1) for tokens in (self.yes, self.no))
        scores: list[float] = (yes_C - no_C).tolist()
        return scores
