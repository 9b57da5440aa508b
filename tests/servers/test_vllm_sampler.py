"""vLLM in this process draws from the very weights that train, and says with which probability."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from servers.conftest import STOPS
from training.toy import VOCABULARY
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.models.settings import LoraSettings, ModelSettings
from trimtab.rollout import vllm
from trimtab.rollout.sampler import Sample, Sampling, VLLMSettings
from trimtab.rollout.vllm import Engine, VLLMSampler

pytestmark = pytest.mark.vllm

SETTINGS = VLLMSettings(cache_gib=0.25)
PROMPTS = [[5, 6, 7], list(range(100, 300)), [40], [8, 9, 11, 12, 13, 14], list(range(300, 500))]
"""Uneven; two longer than a block of the engine's cache (128 tokens on a CPU), which it keeps for later."""
WARM = (1.0, 0.5, 1.7)


@pytest.fixture
def policy(vllm_model: Path) -> Policy:
    return load_policy(str(vllm_model)).eval()


@pytest.fixture
def sampler(policy: Policy) -> VLLMSampler:
    return VLLMSampler(policy, SETTINGS, "float32", 4096)


def draw(sampler: VLLMSampler, seed: int = 3, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[list[Sample]]:
    sampling = Sampling(temperatures=WARM, max_new_tokens=16, engine="vllm")
    return sampler.sample(prompts, 3, sampling, seed=seed, stops=STOPS)


def flat(samples: list[list[Sample]]) -> list[Sample]:
    return [one for of_prompt in samples for one in of_prompt]


@torch.no_grad()
def logps(model: Any, prompt: list[int], sample: Sample, temperature: float) -> torch.Tensor:
    """By transformers' own forward pass, one sequence at a time."""
    logits_TV = model(input_ids=torch.tensor([[*prompt, *sample.tokens]])).logits[0, len(prompt) - 1 : -1]
    found = (logits_TV.float() / temperature).log_softmax(-1)
    return found[torch.arange(len(sample.tokens)), torch.tensor(sample.tokens)]


def worst(policy: Policy, drawn: list[list[Sample]]) -> float:
    """The largest difference in nats between what the engine said and the policy's at the sample's temperature."""
    return max(
        float((torch.tensor(one.logps) - logps(policy.model, prompt, one, one.temperature)).abs().max())
        for prompt, several in zip(PROMPTS, drawn, strict=True)
        for one in several
    )


def update(policy: Policy) -> None:
    """A step of an optimizer, as large as a long run's."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    loss = policy.model(input_ids=torch.tensor([[5, 6, 7, 8]]), labels=torch.tensor([[5, 6, 7, 8]])).loss
    loss.backward()
    optimizer.step()


def test_log_probabilities_are_the_trainers_after_an_update_and_not_without_the_push(
    sampler: VLLMSampler, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2e-2 nats in float32, at every temperature and behind prefixes that were cached before the update."""
    assert worst(policy, draw(sampler)) <= 2e-2
    update(policy)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "push", lambda *_: None)
        assert worst(policy, draw(sampler)) > 2e-2, "the old weights drew"
    drawn = draw(sampler)
    assert worst(policy, drawn) <= 2e-2
    for prompt, several in zip(PROMPTS, drawn, strict=True):
        for one in several:
            assert torch.allclose(torch.tensor(one.policy_logps), logps(policy.model, prompt, one, 1.0), atol=1e-4)


def test_same_seeds_same_samples_whatever_else_is_drawn(sampler: VLLMSampler) -> None:
    first = draw(sampler)
    assert draw(sampler) == first
    assert [[one.tokens for one in of] for of in draw(sampler, prompts=PROMPTS[:2])] == [
        [one.tokens for one in of] for of in first[:2]
    ]
    assert all(a.tokens != b.tokens for a, b in zip(flat(first), flat(draw(sampler, seed=4)), strict=True))
    alike = sampler.sample([PROMPTS[0]] * 2, 4, Sampling(max_new_tokens=16, engine="vllm"), seed=3, stops=[])
    assert len({one.tokens for several in alike for one in several}) == 8, "a seed of its own for each"


def test_samples_end_at_stop_tokens_and_at_the_cap_only(sampler: VLLMSampler) -> None:
    """The model's own eos is no stop token here, so that it ends nothing."""
    sampling = Sampling(temperatures=(1.7,), max_new_tokens=40, engine="vllm")
    stops = STOPS[1:]
    drawn = flat(sampler.sample(PROMPTS, 8, sampling, seed=1, stops=stops))
    assert {one.finish for one in drawn} == {"stop", "cap"}
    for one in drawn:
        assert not set(one.tokens[:-1]) & set(stops)
        assert (one.finish == "stop") == (one.tokens[-1] in stops)
        assert len(one.tokens) == 40 or one.finish == "stop"


def test_temperature_0_is_greedy_and_its_distribution_a_point(sampler: VLLMSampler, policy: Policy) -> None:
    sampling = Sampling(temperatures=(0.0, 1.0), max_new_tokens=8, engine="vllm")
    for prompt, (cold, _) in zip(PROMPTS, sampler.sample(PROMPTS, 2, sampling, seed=0, stops=[]), strict=True):
        assert cold.logps == (0.0,) * 8
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*prompt, *cold.tokens]])).logits[0, len(prompt) - 1 : -1]
        chosen = logits[torch.arange(8), torch.tensor(cold.tokens)]
        assert float((logits.max(-1).values - chosen).max()) <= 1e-3


def test_the_trainers_state_is_left_alone(sampler: VLLMSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its random numbers and the way threads are set; and its autocast, which would round the engine's products."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    draw(sampler)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # type: ignore[index]
    assert random.getstate() == before[2]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    llm, seen = sampler.engine.llm, []
    generate = llm.generate
    monkeypatch.setattr(
        llm, "generate", lambda *a, **k: seen.append(torch.is_autocast_enabled("cpu")) or generate(*a, **k)
    )
    with torch.autocast("cpu", torch.bfloat16):
        draw(sampler)
    assert seen == [False]


def test_an_adapter_is_merged_into_what_is_pushed(vllm_model: Path) -> None:
    policy = load_policy(str(vllm_model), ModelSettings(lora=LoraSettings(rank=4, dora=True))).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    drawn = draw(VLLMSampler(policy, SETTINGS, "float32", 4096))
    assert worst(policy, drawn) <= 2e-2
    assert worst(load_policy(str(vllm_model)).eval(), drawn) > 2e-2, "the adapter does something"
    assert any("lora_B" in name for name, _ in policy.named_parameters()), "and is still there"


def test_another_architecture_takes_the_engines_place(sampler: VLLMSampler) -> None:
    """Untied embeddings, grouped heads, bfloat16 products."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, initializer_range=0.05,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = Policy(LlamaForCausalLM(config).eval())
    other = VLLMSampler(policy, SETTINGS, "bf16", 4096)
    assert list(vllm._live.values()) == [other.engine]
    drawn = flat(other.sample([[5, 6, 7]] * 4, 2, Sampling(max_new_tokens=16), seed=0, stops=[]))
    off = torch.cat([torch.tensor(one.logps) - torch.tensor(one.policy_logps) for one in drawn])
    assert 0 < float(off.abs().mean()) <= 2e-2, "bfloat16 against float32, and the same weights"
