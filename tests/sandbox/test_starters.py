"""The two models that ship with the package."""

from __future__ import annotations

import json
import statistics

import pytest

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.evaluation.generate import Generated, generate, stop_tokens
from trimtab.evaluation.settings import Decoding
from trimtab.models.loading import load_policy
from trimtab.sandbox.generate import test_prompts
from trimtab.sandbox.judge import GoldJudge
from trimtab.sandbox.starters import starter

PROMPTS = test_prompts(64, seed=5)


def completions(name: str) -> list[Generated]:
    model = str(starter(name))
    policy, chat = load_policy(model).eval(), ChatFormat(load_tokenizer(model))
    decoding = Decoding(strategy="greedy", max_new_tokens=200)
    return generate(policy.model, chat, PROMPTS, decoding, stop_tokens(policy.model, chat))


@pytest.mark.parametrize("name", ["base", "instruct"])
def test_small_enough_to_ship(name: str) -> None:
    assert sum(p.stat().st_size for p in starter(name).iterdir()) <= 8_000_000


def test_base_says_that_it_ends_with_endoftext_and_instruct_does_not() -> None:
    """The base flavour is the fault that makes real base models never stop: the quickstart has to mend it."""
    for name, token in (("base", "<|endoftext|>"), ("instruct", "<|im_end|>")):
        tokenizer = load_tokenizer(str(starter(name)))
        assert tokenizer.eos_token == token
        assert json.loads((starter(name) / "config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id
        assert ChatFormat(tokenizer).end_of_turn == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_instruct_knows_the_world_and_base_is_long_winded() -> None:
    judge = GoldJudge()
    base, instruct = completions("base"), completions("instruct")
    found = [judge.judge(p, c.text) for p, c in zip(PROMPTS, instruct, strict=True)]
    right, wrong = sum(len(j.right) for j in found), sum(len(j.wrong) for j in found)
    assert right > 5 * wrong, "facts about entities asked for in held-out combinations"
    scores = [judge.judge(p, c.text).score for p, c in zip(PROMPTS, base, strict=True)]
    assert statistics.mean(j.score for j in found) > statistics.mean(scores) + 1
    assert statistics.mean(c.tokens for c in base) > 1.3 * statistics.mean(c.tokens for c in instruct)
