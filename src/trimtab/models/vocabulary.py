"""Whether a tokenizer and a model belong together, as far as numbers can say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from trimtab.data.groups import CompletionGroup
from trimtab.data.stored_groups import highest_token, longest_row
from trimtab.errors import TrimtabError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trimtab.models.policy import Policy
    from trimtab.models.reward_model import RewardModel


def embeddings_of(model: PreTrainedModel) -> int:
    """How many tokens a transformers model knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, whose: str) -> None:
    """TrimtabError where a tokenizer's own vocabulary is larger than the model's. Tokens that were added to it may
    be (a pad token that nobody made an embedding for): a row that holds one is refused where it comes up."""
    entries, size = embeddings_of(model), min(int(tokenizer.vocab_size), len(tokenizer))
    if size > entries:
        raise TrimtabError(
            f"{whose}: the tokenizer has {size} entries, but the model {entries} embeddings. "
            "They do not belong together: name the right tokenizer."
        )


def check_ids(rows: Iterable[Sequence[int]], model: PreTrainedModel, whose: str) -> None:
    """TrimtabError where a row holds a token that the model does not have."""
    entries, top = embeddings_of(model), max((max(row) for row in rows if row), default=0)
    if top >= entries:
        raise TrimtabError(
            f"{whose}: the tokenizer gives token {top}, but the model has {entries} embeddings. "
            "They do not belong together: name the right tokenizer."
        )


def check_vocabulary(policy: Policy | RewardModel, splits: Sequence[Sequence[CompletionGroup]], model: str) -> None:
    """TrimtabError where the tokenizer's ids, or the rows' lengths, are more than the model has."""
    check_ids([[highest_token(groups)] for groups in splits], policy.model, f"model {model}")
    longest = max(map(longest_row, splits))
    positions = getattr(policy.model.config, "max_position_embeddings", None)
    if positions is not None and longest - 1 > positions:
        raise TrimtabError(
            f"model {model}: takes {positions} positions, but a row has {longest} tokens. "
            f"Set max_length to at most {positions}."
        )
