"""A language model's yes or no against its logits behind the question, a row at a time by transformers alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig

from conftest import byte_tokenizer
from rewards.toy import llama_tokenizer, reward_settings
from trimtab.data.records import Message
from trimtab.errors import TrimtabError
from trimtab.rewards.base import Prompt
from trimtab.rewards.settings import make_reward
from trimtab.rewards.yes_no import YesNoReward, answer_tokens

TALK = (Message("user", "the cat?"), Message("assistant", "sat"), Message("user", "why?"))
PROMPTS: list[Prompt] = ["the cat", "the cat", TALK, "the cat", "and the dog there", TALK, "why?"]
COMPLETIONS = ["sat on the mat", "{prompt}", "and there", "", "sat " * 9, "the dog sat", "on"]
QUESTION = "Good? {prompt} -> {completion} Yes or No:"


def write(folder: Path, config: Any, tokenizer: Any) -> Path:
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A family that serves the tree, its tokenizer with both words in it; and one that does not, with neither and
    without a template."""
    root = tmp_path_factory.mktemp("yes_no")
    tokenizer = llama_tokenizer()
    tokenizer.add_tokens(["Yes", " no", "NO"])
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    llama = LlamaConfig(num_attention_heads=2, max_position_embeddings=200, **shape)
    gpt2 = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=200)
    plain = byte_tokenizer(None)
    return {
        "tree": write(root / "tree", llama, tokenizer),
        "rows": write(root / "rows", gpt2, plain),
    }


def asked(prompt: Prompt, completion: str) -> str:
    turns = prompt if isinstance(prompt, str) else "user: the cat?\nassistant: sat\nuser: why?"
    return f"Good? {turns} -> {completion} Yes or No:"


def by_hand(folder: Path, prompt: Prompt, completion: str, yes: list[int], no: list[int]) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    text = asked(prompt, completion)
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
    else:
        ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        probabilities = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
    return float(torch.log(probabilities[yes].sum() / probabilities[no].sum()))


@pytest.mark.parametrize("kind", ["tree", "rows"])
@pytest.mark.parametrize("budget", [8192, 1])
def test_scores_are_the_log_odds_of_yes(kind: str, budget: int, folders: dict[str, Path]) -> None:
    folder = folders[kind]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if kind == "tree":
        words = ["Yes"], [" no", "NO"]
    else:
        words = ["Y"], ["N"]  # neither word is a token: the letters that they begin with
    yes, no = ([tokenizer.convert_tokens_to_ids(word) for word in of] for of in words)
    reward = YesNoReward(str(folder), question=QUESTION, token_budget=budget)
    assert (reward.yes, reward.no) == (sorted(yes), sorted(no))
    scores = reward.score(PROMPTS, COMPLETIONS)
    expected = [by_hand(folder, p, c, yes, no) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert scores == pytest.approx(expected, abs=2e-5)
    assert len({round(s, 3) for s in expected}) == len(expected), "no two rows could be taken for each other"


def test_completions_of_a_prompt_share_its_pass(folders: dict[str, Path]) -> None:
    """Two of "the cat", two of the talk. The empty one is by itself: there the spaces around it are one token."""
    reward = YesNoReward(str(folders["tree"]), question=QUESTION)
    rows: dict[int, Any] = {i: reward._row(p, c) for i, (p, c) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True))}
    found = [group for _, groups in reward._passes(rows) for group in groups]
    assert sorted(len(group.completions) for group in found) == [1, 1, 1, 2, 2]


def test_a_row_that_does_not_fit_has_no_score(folders: dict[str, Path]) -> None:
    (one,) = YesNoReward(str(folders["tree"]), question=QUESTION).scored(["the cat"], ["sat on " * 200])
    assert one.score is None
    assert "takes 200" in str(one.reason)


def test_what_a_score_depends_on_is_in_the_signature(folders: dict[str, Path], tmp_path: Path) -> None:
    def signature(folder: Path, **given: Any) -> str:
        return YesNoReward(str(folder), **given).signature

    tree = folders["tree"]
    other = shutil.copytree(tree, tmp_path / "other")
    assert signature(tree) == signature(tree, name="called otherwise", token_budget=5)
    assert signature(other) == signature(tree)  # the same weights, wherever they lie
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(other)
    different = [
        signature(tree),
        signature(other),
        signature(tree, question=QUESTION),
        signature(tree, precision="bf16"),
    ]
    assert len(set(different)) == 4


def test_words_that_cannot_be_told_apart() -> None:
    class Unknown:
        """Every text is the one token that stands for what it does not know."""

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [3]}

        def decode(self, ids: list[int]) -> str:
            return "?"

    with pytest.raises(TrimtabError, match="do not tell 'Yes' from 'No'"):
        answer_tokens(Unknown(), "m")


def test_it_is_a_reward_with_a_model_and_the_policy_without(folders: dict[str, Path]) -> None:
    named = reward_settings(kind="yes_no", model=str(folders["tree"]), question=QUESTION)
    itself = reward_settings(kind="yes_no", question=QUESTION)
    assert itself.asks_policy
    assert not named.asks_policy
    made = make_reward([named], {})
    asked_itself = make_reward([itself], {}, policy=str(folders["tree"]))
    assert isinstance(made, YesNoReward)
    assert made.signature == asked_itself.signature
    assert (made.name, asked_itself.name) == ("tree", "yes_no")
    with pytest.raises(TrimtabError, match="only online_dpo asks the policy itself"):
        make_reward([itself], {})
    with pytest.raises(ValueError, match="where the completion goes"):
        reward_settings(kind="yes_no", question="Good?")
    with pytest.raises(ValueError, match="takes no question"):
        reward_settings(kind="classifier", model="m", question=QUESTION)
    assert itself.describe() == "yes or no by the policy itself"
