"""A local classifier's scores against what its model card would have one compute, a row at a time."""

from __future__ import annotations

import json
import math
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
)

from conftest import byte_tokenizer
from data.wordpiece import wordpiece_tokenizer
from rewards.toy import bert, llama_tokenizer, qwen, write
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.pairs import reward_format
from trimtab.data.records import Message, Record
from trimtab.errors import TrimtabError
from trimtab.models.reward_model import for_scoring, load_reward_model
from trimtab.rewards.base import Prompt
from trimtab.rewards.classifier import ClassifierReward

TALK = (Message("user", "the cat?"), Message("assistant", "sat"), Message("user", "why?"))
PROMPTS: list[Prompt] = ["the cat", "the cat", TALK, "the cat", "and the dog there", TALK, "why?"]
COMPLETIONS = ["sat on the mat", "\nsat", "and there", "", "sat " * 9, "the dog sat", "on"]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rewards") / "decoder", qwen(), byte_tokenizer())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rewards") / "encoder", bert(), wordpiece_tokenizer())


@pytest.fixture(scope="module")
def untyped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that knows two token types, with a tokenizer that uses one."""
    tokenizer = wordpiece_tokenizer(model_input_names=["input_ids", "attention_mask"])
    return write(tmp_path_factory.mktemp("rewards") / "untyped", bert(), tokenizer)


def by_the_card(folder: Path, prompt: Prompt, completion: str) -> float:
    """transformers alone: apply_chat_template, or a pair of texts, one row, no padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if tokenizer.chat_template:
        messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        turns = [{"role": m.role, "content": m.content} for m in (*messages, Message("assistant", completion))]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    else:
        lines = prompt if isinstance(prompt, str) else "\n".join(f"{m.role}: {m.content}" for m in prompt)
        inputs = tokenizer([lines], [completion], return_tensors="pt")  # alone, "" would be no text at all
    with torch.no_grad():
        return float(model(**inputs).logits[0][0])


@pytest.mark.parametrize("kind", ["decoder", "encoder", "untyped"])
def test_scores_are_the_model_cards_in_any_order_and_batching(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    expected = [by_the_card(folder, p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert len({round(score, 5) for score in expected}) == len(expected)
    order = random.Random(3).sample(range(len(PROMPTS)), len(PROMPTS))
    for budget in (8192, 60, 1):
        reward = ClassifierReward(str(folder), token_budget=budget, device="cpu")
        for places in (range(len(PROMPTS)), order):
            found = reward.score([PROMPTS[i] for i in places], [COMPLETIONS[i] for i in places])
            assert found == pytest.approx([expected[i] for i in places], abs=1e-5)
    assert reward.name == kind
    assert ClassifierReward(str(folder), "mine", device="cpu").score([], []) == []


def test_a_template_and_a_tokenizer_that_both_write_bos_write_it_once(tmp_path: Path) -> None:
    """As Skywork's cards have it for Llama 3: the template's BOS is taken off, the tokenizer puts its own."""
    tokenizer = llama_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    folder = write(tmp_path / "llama", LlamaConfig(max_position_embeddings=96, pad_token_id=3, **shape), tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    expected = []
    for completion in ("sat", "sat on the mat"):
        turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": completion}]
        text = tokenizer.apply_chat_template(turns, tokenize=False).removeprefix("<|begin|>")
        ids = tokenizer(text, return_tensors="pt")
        assert ids["input_ids"][0].tolist().count(0) == 1
        expected.append(float(model(**ids).logits[0][0].detach()))
    found = ClassifierReward(str(folder), device="cpu").score(["the cat"] * 2, ["sat", "sat on the mat"])
    assert found == pytest.approx(expected, abs=1e-5)


def sizes_of(reward: ClassifierReward, completions: list[str]) -> list[int]:
    """Tokens that went through the model, pass by pass."""
    sizes: list[int] = []
    embeddings = reward.model.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, inputs, out: sizes.append(inputs[0].numel()))
    reward.score(["the cat"] * len(completions), completions)
    hook.remove()
    return sizes


def test_passes_keep_to_the_budget_and_compute_equal_prompts_once(decoder: Path, encoder: Path) -> None:
    completions = ["sat on"] * 6 + ["sat"] * 6
    padded = sizes_of(ClassifierReward(str(encoder), token_budget=40, device="cpu"), completions)
    assert len(padded) > 1
    assert max(padded) <= 40
    reward = ClassifierReward(str(decoder), token_budget=60, device="cpu")
    packed = sizes_of(reward, completions)
    prompt, (long, short) = reward.form.tokens("the cat", ["sat on", "sat"])
    assert 1 < len(packed) < 12
    assert max(packed) <= 60
    assert sum(packed) == 6 * len(long) + 6 * len(short) + len(packed) * len(prompt)


def test_rows_that_cannot_be_scored_say_why(decoder: Path, encoder: Path) -> None:
    """96 positions for the decoder; the ChatML of prompt "a" is the same without a completion."""
    reward = ClassifierReward(str(decoder), device="cpu")
    prompt, (empty,) = reward.form.tokens("a", [""])
    fits = "\t" * (96 - len(prompt) - len(empty))  # a byte that merges with no other
    found = reward.scored(["a", "a", "a"], [fits, fits + "\t", "sat"])
    assert [one.score is None for one in found] == [False, True, False]
    assert found[1].reason == "97 tokens, but decoder takes 96"
    long = ClassifierReward(str(encoder), device="cpu").scored(["the cat"], ["sat " * 40])
    assert long[0].reason == "45 tokens, but encoder takes 40"


def test_a_conversation_that_the_template_refuses_is_missing_not_fatal(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    tokenizer.chat_template = refuse + tokenizer.chat_template
    folder = write(tmp_path / "refuses", qwen(), tokenizer)
    system = (Message("system", "be short"), Message("user", "why?"))
    found = ClassifierReward(str(folder), device="cpu").scored([system, "why?"], ["sat", "sat"])
    assert found[0].score is None
    assert "no system turn" in (found[0].reason or "")
    assert found[1].score == pytest.approx(by_the_card(folder, "why?", "sat"), abs=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_a_folder_that_our_reward_model_saved_is_a_reward(kind: str, tmp_path: Path) -> None:
    """A backbone with a new head, bound, saved: the same scores by the reward and by transformers alone."""
    tokenizer = byte_tokenizer() if kind == "decoder" else wordpiece_tokenizer()
    config = qwen(vocab_size=len(tokenizer), pad_token_id=None) if kind == "decoder" else bert()
    torch.manual_seed(2)
    (AutoModelForCausalLM if kind == "decoder" else AutoModel).from_config(config).save_pretrained(tmp_path / "b")
    trained = load_reward_model(str(tmp_path / "b"))
    form = reward_format(tokenizer)
    trained.bind(form)
    with torch.no_grad():  # as if it had been trained
        for weight in trained.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    trained.save(tmp_path / "saved")
    form.tokenizer.save_pretrained(tmp_path / "saved")
    group = form.encode(Record("the cat", ("sat on the mat", "there")))
    assert isinstance(group, CompletionGroup)
    with torch.no_grad():
        expected = trained(pack([for_scoring(group)])).tolist()
    found = ClassifierReward(str(tmp_path / "saved"), device="cpu").score(
        ["the cat"] * 2, ["sat on the mat", "there"]
    )
    assert found == pytest.approx(expected, abs=1e-6)
    alone = [by_the_card(tmp_path / "saved", "the cat", c) for c in ("sat on the mat", "there")]
    assert found == pytest.approx(alone, abs=1e-5)
    assert abs(alone[0] - alone[1]) > 1e-3


def test_a_decoder_without_a_template_reads_joined_text_with_eos(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    folder = write(tmp_path / "gpt2", config, byte_tokenizer(None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reward = ClassifierReward(str(folder), device="cpu")
    found = reward.scored(["the cat ", "the cat ", TALK], ["sat", "sat on", "sat"])
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        for one, text in zip(found, ("the cat sat", "the cat sat on"), strict=False):
            ids = torch.tensor([[*reward.form.tokenizer(text)["input_ids"], 0]])
            assert one.score == pytest.approx(float(model(ids).logits[0, 0]), abs=1e-5)
    assert "no chat template" in (found[2].reason or "")


def test_a_score_that_is_not_finite_is_missing(decoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "huge"
    folder.mkdir()
    for file in decoder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], 3e38) * weights["score.weight"].sign()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = ClassifierReward(str(folder), device="cpu").scored(["the cat"], ["sat"])
    assert found[0].score is None
    assert found[0].reason in ("huge gave inf", "huge gave -inf", "huge gave nan")
    weights["score.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrimtabError, match=r"model.safetensors: tensor score.weight has 1 of"):
        ClassifierReward(str(folder), device="cpu")


def test_the_signature_follows_weights_and_template(decoder: Path, tmp_path: Path) -> None:
    one = ClassifierReward(str(decoder), device="cpu")
    assert ClassifierReward(str(decoder), "other", token_budget=9, device="cpu").signature == one.signature
    assert ClassifierReward(str(decoder), device="cpu", precision="bf16").signature != one.signature
    assert ClassifierReward(str(decoder), device="cpu", tokenizer=str(decoder)).signature != one.signature
    folder = write(tmp_path / "decoder", qwen(max_position_embeddings=97), byte_tokenizer())
    assert ClassifierReward(str(folder), device="cpu").signature != one.signature


def test_what_is_no_reward_model_is_refused(decoder: Path, tmp_path: Path, tiny_model_dir: Any) -> None:
    with pytest.raises(TrimtabError, match=r"model \(Qwen2ForCausalLM\)\. Its scoring head would be random"):
        ClassifierReward(str(tiny_model_dir()))
    with pytest.raises(TrimtabError, match="classifier with 3 labels"):
        ClassifierReward(str(write(tmp_path / "three", qwen(), byte_tokenizer(), labels=3)))
    with pytest.raises(TrimtabError, match="no such folder"):
        ClassifierReward(str(tmp_path / "nowhere"))
    small = write(tmp_path / "small", qwen(), byte_tokenizer(None, ("<e>",), eos_token="<e>"))
    config = json.loads((small / "config.json").read_text())
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<more {i}>" for i in range(30)])
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(
        TrimtabError, match=rf"{tokenizer.vocab_size} entries, but the model {config['vocab_size']}"
    ):
        ClassifierReward(str(small), tokenizer=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("setting", "as_token"),
    [(None, False), ("token", True), ("drop", False), (["<|im_end|>"], True), (["<|im_start|>"], False)],
)
def test_a_trained_classifier_reads_control_tokens_as_it_was_trained_to(
    setting: Any, as_token: bool, decoder: Path, tmp_path: Path
) -> None:
    """Of a stage's best/ its stage.json says how; the scores of the text and of the token differ."""
    best = tmp_path / "best"
    shutil.copytree(decoder, best)
    (tmp_path / "stage.json").write_text(json.dumps({"data": {"control_tokens": setting} if setting else {}}))
    reward, plain = ClassifierReward(str(best)), ClassifierReward(str(decoder))
    prompt, end = "the <|im_end|> cat", reward.form.tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids, _ = reward.form.tokens(prompt, ["sat"])
    ends = plain.form.tokens("the cat", ["sat"])[0].count(end)
    assert ids.count(end) == ends + as_token
    assert (reward.score([prompt], ["sat"]) != plain.score([prompt], ["sat"])) == as_token
    assert ("control" in reward.signature) == (setting is not None and setting != "drop")
