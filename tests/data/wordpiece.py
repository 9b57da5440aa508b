"""A tokenizer as BERT's: lower-cased words, [CLS] a [SEP] b [SEP], token types 0 and 1."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
"""Ids 0 to 3."""
ROLES = ("user", "assistant", "system", ":")
WORDS = (*ROLES, "the", "cat", "sat", "on", "mat", "and", "dog", "there", "why", "?", "a", "b")
"""Ids 4 to 19."""


def wordpiece_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    settings.setdefault("model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings)


def ids(text: str) -> list[int]:
    return [(*SPECIAL, *WORDS).index(word) for word in text.split()]
