"""Bits per byte divides by the bytes of the text: of a model that finds all 16 tokens alike, 4 bits each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.data.chat import ChatFormat, TruncationSettings
from trimtab.data.records import Record
from trimtab.data.split_groups import encode_records
from trimtab.evaluation.perplexity import Fluency, fluency
from trimtab.models.loading import load_policy

PIECES = ["<unk>", "<s>", "</s>", *"▁ab</s>?\ncdef"]
ANSWERED = "<s>{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"


def sentencepiece_style() -> PreTrainedTokenizerFast:
    """A blank is a piece; one more stands before every text, and decoding takes it away."""
    core = Tokenizer(models.Unigram([(piece, -1.0) for piece in PIECES], unk_id=0, byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace()
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


def measured(folder: Path, record: Record, template: str | None = None, **settings: int) -> Fluency:
    tokenizer = sentencepiece_style()
    tokenizer.chat_template = template
    assert len(tokenizer) == 16
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    ))  # fmt: skip
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    chat = ChatFormat(tokenizer, TruncationSettings(**settings))
    groups, counts = encode_records([record], chat, "first")
    assert counts.used == 1
    return fluency(load_policy(str(folder)).eval(), chat, groups, [record])


@pytest.mark.parametrize("template", [None, ANSWERED])
@pytest.mark.parametrize(
    ("completion", "tokens", "size"),
    [
        (" a b?", 6, 5),  # ▁ a ▁ b ? </s>
        ("a b?", 5, 4),
        (" a</s>?", 8, 7),  # people's "</s>" is four letters
    ],
)
def test_bits_over_the_bytes_of_the_text(
    tmp_path: Path, template: str | None, completion: str, tokens: int, size: int
) -> None:
    found = measured(tmp_path, Record("b", (completion,)), template)
    assert found.tokens == tokens
    assert found.perplexity == pytest.approx(16)
    assert found.bits_per_byte == pytest.approx(4 * tokens / size)


def test_bytes_of_what_truncation_leaves(tmp_path: Path) -> None:
    """ "▁b" and room for four more of " a b?": " a b" is 4 bytes for 4 tokens."""
    found = measured(tmp_path, Record("b", (" a b?",)), max_length=6, min_completion_length=1)
    assert (found.tokens, found.bits_per_byte) == (4, pytest.approx(4))


def test_bytes_of_the_answer_that_was_kept(tmp_path: Path) -> None:
    """Of a pair, the chosen one's."""
    assert measured(tmp_path, Record("b", (" ab", " a ? b"))).bits_per_byte == pytest.approx(4 * 4 / 3)
