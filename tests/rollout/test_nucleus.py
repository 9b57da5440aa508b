"""Which tokens nucleus sampling keeps, and what it draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import TopPLogitsWarper

from trimtab.rollout import nucleus as module
from trimtab.rollout.drawing import Temperatures, draw
from trimtab.rollout.nucleus import nucleus

PROBABILITIES = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.05, [1]), (0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3]), (0.95, [0, 1, 2, 3])],
)
def test_by_hand(top_p: float, kept: list[int]) -> None:
    """0.4, 0.4 + 0.3, 0.4 + 0.3 + 0.2, all: the fewest that reach top_p, and at least one."""
    assert nucleus(PROBABILITIES, top_p).isfinite()[0].nonzero()[:, 0].tolist() == kept


@given(st.integers(1, 4), st.integers(1, 200), st.floats(0.01, 0.99), st.integers(0, 99), st.sampled_from([1, 64]))
def test_the_tokens_that_transformers_keeps(
    rows: int, entries: int, top_p: float, seed: int, likeliest: int
) -> None:
    """Whether or not the likeliest few hold the nucleus."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, entries, generator=generator, dtype=torch.float64)
    theirs = TopPLogitsWarper(top_p)(torch.zeros(rows, 1, dtype=torch.long), logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LIKELIEST", likeliest)
        assert torch.equal(nucleus(logits.log_softmax(-1), top_p).isfinite(), theirs.isfinite())


def test_draws_are_of_the_nucleus_renormalised() -> None:
    """At top_p 0.6 tokens 1 and 3 are left, 4 to 3: of 999 even uniform numbers 571 and 428. Their
    log-probabilities are those of all four."""
    uniform = torch.arange(1, 1000, dtype=torch.float64) / 1000
    warm = Temperatures.of([1.0] * len(uniform), uniform.device)
    drawn = draw(PROBABILITIES.expand(len(uniform), -1), uniform, warm, None, top_p=0.6)
    assert torch.bincount(drawn.token, minlength=4).tolist() == [0, 571, 0, 428]
    assert drawn.logp.exp()[0] == pytest.approx(0.4)
