"""What GRPO does with samples of another engine, whose distribution is not quite the policy's.

The engine here is trimtab's own sampler that reports every log-probability lower by SHIFT than it is: each
token's weight π/μ is then exactly e^SHIFT. tests/servers has the real one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.grpo_runs import CAP, Ran, grpo
from trimtab.errors import TrimtabError
from trimtab.evaluation.settings import Decoding
from trimtab.methods import collector as module
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.rollout.sampler import Sample, Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.rollout.vllm import load_vllm

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def first_step(
    stopping_model: Path, toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """first_step(shift, **settings): the metrics of one step with the engine that is off by `shift`."""

    def run(shift: float, temperatures: tuple[float, ...] = (1.0,), **given: Any) -> dict[str, Any]:
        class Off(TransformersSampler):
            def __init__(self, policy: Any, *_: Any) -> None:
                super().__init__(policy)

            def sample(self, *args: Any, **kwargs: Any) -> list[list[Sample]]:
                drawn = super().sample(*args, **kwargs)
                return [
                    [replace(s, logps=tuple(p - shift for p in s.logps), reread_logps=s.logps) for s in of]
                    for of in drawn
                ]

        monkeypatch.setattr(module, "VLLMSampler", Off)
        sampling = Sampling(engine="vllm", temperatures=temperatures, max_new_tokens=CAP)
        folder = tmp_path / f"{shift}-{temperatures}-{len(list(tmp_path.iterdir()))}"
        ran: Ran = grpo(stopping_model, toy_pairs, folder, sampling=sampling, max_steps=1, **given)
        return ran.rows[0]

    return run


@pytest.mark.parametrize("correction", ["token", "tempered"])
@pytest.mark.parametrize("temperatures", [(1.0,), (0.5, 1.5)])
def test_the_engines_mismatch_is_weighed_out(first_step: Run, correction: str, temperatures: tuple[float]) -> None:
    """An engine that says half of each probability makes every weight twice what it was: so is the gradient.
    The k1 that is subtracted from the reward is the policy's own, and the metric says ln 2."""
    given = {"correction": correction, "temperatures": temperatures, "kl_coefficient": 0.5, "weight_cap": 1e9}
    plain, off = first_step(0.0, **given), first_step(math.log(2), **given)
    assert off["grad_norm"] == pytest.approx(2 * plain["grad_norm"], rel=1e-4)
    name = "sampling/sampling_logp_difference"
    assert plain[f"{name}/max"] <= 1e-4
    assert off[f"{name}/mean"] == pytest.approx(math.log(2), rel=1e-4)
    assert off[f"{name}/max"] == pytest.approx(math.log(2), rel=1e-3)
    kl = "kl" if temperatures == (1.0,) else "log_ratio"
    assert off[kl] == pytest.approx(plain[kl], abs=1e-6)
    assert 0 < off["sampling/effective_sample_size"] < 1


def test_weights_are_cut_at_their_cap_and_can_be_left_out(first_step: Run) -> None:
    plain, capped = first_step(0.0), first_step(math.log(3), weight_cap=2.0)
    assert capped["grad_norm"] == pytest.approx(2 * plain["grad_norm"], rel=1e-4)
    uncorrected = first_step(math.log(3), correction="none")
    assert uncorrected["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-6)


def test_what_vllm_cannot_do_is_said_before_anything_runs() -> None:
    vllm = Sampling(engine="vllm")
    with pytest.raises(ValidationError, match="use ratio 'token'"):
        GRPOSettings(sampling=vllm, ratio="sequence")
    assert GRPOSettings(sampling=vllm, ratio="sequence", correction="none").ratio == "sequence"
    with pytest.raises(ValidationError, match=r"vLLM samples at 0, or at 0\.01"):
        Sampling(engine="vllm", temperatures=(1.0, 0.001))
    with pytest.raises(ValidationError, match=r"vLLM samples at 0, or at 0\.01"):
        Decoding(engine="vllm", temperature=0.001)


def test_without_vllm_the_way_out_is_named(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    try:
        load_vllm()
    except TrimtabError:
        with pytest.raises(TrimtabError, match="choose engine transformers"):
            grpo(stopping_model, toy_pairs, tmp_path / "run", sampling=Sampling(engine="vllm"))
    else:
        pytest.skip("vLLM is installed here")
