"""vLLM servers draw from the very weights that train, which are sent to them, and from no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from servers.conftest import STOPS
from servers.test_vllm_sampler import PROMPTS, WARM, flat, logps, update, worst
from servers.vllm_server import serving
from training.grpo_runs import Ran, grpo, weights_of
from trimtab.errors import TrimtabError
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.models.settings import LoraSettings, ModelSettings
from trimtab.rollout.sampler import Sample, Sampling, VLLMServerSettings
from trimtab.rollout.vllm_server import Server, Servers, VLLMServerSampler

pytestmark = pytest.mark.vllm

TAKES_WEIGHTS = ("--weight-transfer-config", '{"backend": "gloo"}', "--load-format", "dummy")
EXACT = ("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm")


@pytest.fixture(scope="module")
def addresses(vllm_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two servers, with random weights to begin with."""
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving(vllm_model, logs / f"{i}.log", *TAKES_WEIGHTS, *EXACT, dev=True))
            for i in range(2)
        ]


def settings(addresses: Sequence[str]) -> VLLMServerSettings:
    return VLLMServerSettings(addresses=tuple(addresses), transfer="gloo")


@pytest.fixture
def policy(vllm_model: Path) -> Policy:
    return load_policy(str(vllm_model)).eval()


def draw(sampler: VLLMServerSampler, seed: int = 3) -> list[list[Sample]]:
    sampling = Sampling(temperatures=WARM, max_new_tokens=16)
    return sampler.sample(PROMPTS, 3, sampling, seed=seed, stops=STOPS)


def test_log_probabilities_are_the_trainers_after_an_update_and_not_without_the_push(
    addresses: list[str], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = VLLMServerSampler(policy, settings(addresses), 4096)
    assert worst(policy, draw(sampler)) <= 2e-2
    update(policy)
    with monkeypatch.context() as patch:
        patch.setattr(Servers, "push", lambda *_: None)
        assert worst(policy, draw(sampler)) > 0.1
    assert worst(policy, draw(sampler)) <= 2e-2


def test_samples_end_where_they_should_and_two_servers_draw_what_one_does(
    addresses: list[str], policy: Policy
) -> None:
    both = flat(draw(VLLMServerSampler(policy, settings(addresses), 4096)))
    one = flat(draw(VLLMServerSampler(policy, settings(addresses[:1]), 4096)))
    assert [sample.tokens for sample in both] == [sample.tokens for sample in one]
    assert {sample.finish for sample in both} == {"stop", "cap"}
    for sample in both:
        assert (sample.tokens[-1] in STOPS) == (sample.finish == "stop")
        assert not set(sample.tokens[:-1]) & set(STOPS)
        assert len(sample.logps) == len(sample.tokens) == len(sample.policy_logps) <= 16


def test_an_adapter_goes_there_merged(addresses: list[str], vllm_model: Path) -> None:
    policy = load_policy(str(vllm_model), ModelSettings(lora=LoraSettings(rank=4))).eval()
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    drawn = draw(VLLMServerSampler(policy, settings(addresses), 4096))
    assert worst(policy, drawn) <= 2e-2
    plain = load_policy(str(vllm_model)).eval()
    assert (
        float((logps(plain.model, PROMPTS[0], drawn[0][0], 1.0) - torch.tensor(drawn[0][0].logps)).abs().max())
        > 0.1
    )


def test_weights_that_are_no_longer_ours_end_the_run(
    addresses: list[str], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart, or another trainer's push: the server calls them otherwise."""
    sampler = VLLMServerSampler(policy, settings(addresses), 4096)
    pushed = Servers.push

    def push_and_lose(self: Servers, model: Any) -> None:
        pushed(self, model)
        httpx.post(f"{addresses[1]}/update_weight_version", json={"new_version": "another"}).raise_for_status()

    monkeypatch.setattr(Servers, "push", push_and_lose)
    with pytest.raises(TrimtabError, match=r"its weights are no longer ours \(another\)"):
        draw(sampler)


def test_grpo_learns_from_what_servers_draw(
    addresses: list[str], vllm_model: Path, vllm_pairs: Path, tmp_path: Path
) -> None:
    sampling = Sampling(engine="vllm-server", server=settings(addresses), max_new_tokens=12)
    ran: Ran = grpo(
        vllm_model, vllm_pairs, tmp_path, validation=4, sampling=sampling, max_steps=4, learning_rate=3e-3,
        samples=6, kl_coefficient=0.0,
    )  # fmt: skip
    assert [row["step"] for row in ran.rows] == [1, 2, 3, 4]
    assert max(float((w - ran.weights[n]).norm()) for n, w in weights_of(vllm_model).items()) > 1e-2
    for row in ran.rows:
        assert row["sampling/sampling_logp_difference/max"] <= 2e-2
    assert ran.rows[-1]["reward"] > ran.rows[0]["reward"] + 0.3


def test_a_server_that_was_started_otherwise_is_refused(vllm_model: Path, tmp_path: Path) -> None:
    refused = pytest.raises(TrimtabError, match="its log-probabilities are raw_logprobs, before temperature")
    with serving(vllm_model, tmp_path / "log", dev=True) as address, refused:
        Server(address, settings([address]))
    with pytest.raises(TrimtabError, match="no answer"):
        Server(address, settings([address]))
