"""Nemotron-HF's score against what its model card would have one compute, a row at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from conftest import byte_tokenizer
from rewards.toy import llama_tokenizer, qwen, write
from trimtab.data.records import Message
from trimtab.errors import TrimtabError
from trimtab.rewards.base import Prompt
from trimtab.rewards.classifier import ClassifierReward
from trimtab.rewards.nemotron_local import NemotronLocalReward

TALK = (Message("user", "the cat?"), Message("assistant", "sat"), Message("user", "why?"))
PROMPTS: list[Prompt] = ["the cat", TALK, "the cat", "and the dog there", "why?"]
COMPLETIONS = ["sat on the mat", "and there\n", "", "sat " * 9, "on"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that writes BOS before every text, as Llama 3's tokenizer does, and samples at 0.6."""
    tokenizer = llama_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=96, initializer_range=0.3, **shape)
    model = LlamaForCausalLM(config)
    model.generation_config.update(do_sample=True, temperature=0.6, eos_token_id=1, pad_token_id=1)
    path = tmp_path_factory.mktemp("rewards") / "nemotron"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def by_the_card(folder: Path, prompt: Prompt, completion: str) -> float:
    """As the card has it, greedily: its sampling temperature is no part of the score."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    turns = [("user", prompt)] if isinstance(prompt, str) else [(m.role, m.content) for m in prompt]
    messages = [{"role": role, "content": text} for role, text in [*turns, ("assistant", completion)]]
    ids = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=False, return_tensors="pt", return_dict=True
    )
    assert ids["input_ids"][0].tolist().count(tokenizer.bos_token_id) == 1
    out = model.generate(
        ids["input_ids"],
        attention_mask=torch.ones_like(ids["input_ids"]),
        max_new_tokens=1,
        do_sample=False,
        temperature=None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    return float(out.scores[0][0][0])


def test_scores_are_the_model_cards_in_any_batching(folder: Path) -> None:
    """One pass of all rows, some of a few, one each: left padding shifts no position."""
    expected = [by_the_card(folder, p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert len({round(score, 4) for score in expected}) == len(expected)
    for budget in (8192, 120, 1):
        reward = NemotronLocalReward(str(folder), token_budget=budget)
        assert reward.score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    assert reward.name == "nemotron"


def test_rows_longer_than_the_model_have_no_score(folder: Path) -> None:
    found = NemotronLocalReward(str(folder)).scored(["why?", "why?"], ["the cat sat " * 40, "sat"])
    assert found[0].score is None
    assert "but nemotron takes 96" in str(found[0].reason)
    assert found[1].score is not None


def test_the_signature_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    before = NemotronLocalReward(str(folder)).signature
    assert NemotronLocalReward(str(folder), "other").signature == before
    other = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    other.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert NemotronLocalReward(str(tmp_path)).signature != before


def test_neither_kind_reads_the_others_folder(folder: Path, tmp_path: Path) -> None:
    """A head that nobody trained would be made without a word."""
    with pytest.raises(TrimtabError, match=r"would be random.*reward kind nemotron_local"):
        ClassifierReward(str(folder), device="cpu")
    classifier = write(tmp_path / "classifier", qwen(), byte_tokenizer())
    with pytest.raises(TrimtabError, match=r"no causal language model but Qwen2ForSeq.*kind classifier"):
        NemotronLocalReward(str(classifier))


def test_without_a_template_there_is_no_conversation(folder: Path, tmp_path: Path) -> None:
    byte_tokenizer(template=None).save_pretrained(tmp_path)
    with pytest.raises(TrimtabError, match=r"no chat template.*'tokenizer'"):
        NemotronLocalReward(str(folder), tokenizer=str(tmp_path))
