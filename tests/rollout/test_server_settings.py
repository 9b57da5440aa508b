"""Where vLLM servers are, as a recipe says it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trimtab.rollout.sampler import Sampling, VLLMServerSettings
from trimtab.training.operational import without_operational


@pytest.mark.parametrize(
    "address", ["host:8000", "ftp://host", "http://", "http://u:p@host", "http://host/v1", "http://host?x=1"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValidationError, match="is no address such as"):
        VLLMServerSettings(addresses=(address,))


def test_addresses_are_needed_once_each() -> None:
    with pytest.raises(ValidationError, match=r"needs server\.addresses"):
        Sampling(engine="vllm-server")
    with pytest.raises(ValidationError):
        VLLMServerSettings(addresses=("http://a:1", "http://a:1"))
    assert VLLMServerSettings(addresses=("http://a:1", "https://b")).transfer == "nccl"


def test_temperatures_that_vllm_would_raise() -> None:
    with pytest.raises(ValidationError, match="vLLM samples at 0"):
        Sampling(engine="vllm-server", server=VLLMServerSettings(addresses=("http://a:1",)), temperatures=(0.005,))


def test_a_run_may_go_on_with_other_servers() -> None:
    def dumped(address: str) -> object:
        server = VLLMServerSettings(addresses=(address,))
        return without_operational(Sampling(engine="vllm-server", server=server).model_dump(mode="json"))

    assert dumped("http://a:1") == dumped("http://b:2")
