"""Values and gradients of TRL 1.16's own loss code, fed the same log-probabilities through a stand-in model."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import DPOTrainer, KTOTrainer

from trimtab.data.groups import CompletionGroup, pack
from trimtab.losses.completions import kto
from trimtab.losses.table import call
from trimtab.methods.dpo import loss_inputs

LENGTHS = [(5, 3), (2, 6), (4, 4)]
"""Tokens of chosen and rejected; prompts have two."""
BETA = 0.3
SAME = {
    "dpo": ("sigmoid", {}),
    "robust": ("robust", {"label_smoothing": 0.1}),
    "hinge": ("hinge", {}),
    "ipo_averaged": ("ipo", {}),
    "sppo": ("sppo_hard", {}),
    "apo_zero": ("apo_zero", {}),
    "ld_dpo": ("sigmoid", {"alpha": 0.4}),
    "sft": ("sft", {}),
}


class Accelerator(SimpleNamespace):
    device = torch.device("cpu")

    @staticmethod
    def gather_for_metrics(x: Tensor) -> Tensor:
        return x

    gather = gather_for_metrics


def stand_in(log_probs: Tensor) -> Any:
    """A model whose log-probabilities are given, [rows, T − 1]."""
    zeros = torch.zeros_like(log_probs)
    out = SimpleNamespace(
        log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=zeros
    )
    return lambda **_: out


def trainer(**given: Any) -> Any:
    known = {
        "model": SimpleNamespace(training=True), "accelerator": Accelerator(), "aux_loss_enabled": False,
        "precompute_ref_logps": True, "beta": BETA, "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0, "_tp_size": 1,
    }  # fmt: skip
    return SimpleNamespace(**known | given)


def token_logps(seed: int) -> Tensor:
    """Of all completion tokens in our order: chosen, rejected, chosen, …"""
    count = sum(a + b for a, b in LENGTHS)
    return -torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def trl_rows(logps_M: Tensor) -> tuple[Tensor, Tensor]:
    """The same as TRL's rows: all chosen, then all rejected, two prompt tokens first; and the completion mask."""
    pieces = torch.split(logps_M, [n for pair in LENGTHS for n in pair])
    pieces = (*pieces[0::2], *pieces[1::2])
    width = 2 + max(map(max, LENGTHS))
    rows = torch.stack([torch.cat([p.new_zeros(1), p, p.new_zeros(width - 2 - len(p))]) for p in pieces])
    mask = torch.tensor([[0, 0] + [1] * len(p) + [0] * (width - 2 - len(p)) for p in pieces])
    return rows, mask


@pytest.mark.parametrize("name", list(SAME))
def test_pair_losses_equal_trls(name: str) -> None:
    theirs, options = SAME[name]
    reference_M, ours_M = token_logps(1), token_logps(0).requires_grad_()
    pairs = [CompletionGroup((1, 2), ((3,) * a, (4,) * b)) for a, b in LENGTHS]
    inputs = loss_inputs(pack(pairs), ours_M, reference_M)
    chosen_tokens = float(sum(a for a, _ in LENGTHS))
    inputs |= {"step_groups": float(len(pairs)), "step_chosen_tokens": chosen_tokens}
    out = call(name, inputs, {"beta": BETA, **options})
    loss = (out if isinstance(out, Tensor) else out.losses).mean()
    (gradient,) = torch.autograd.grad(loss, ours_M)

    again_M = token_logps(0).requires_grad_()
    rows, mask = trl_rows(again_M)
    alpha = options.get("alpha")
    weighed = {}
    for side in ("chosen", "rejected"):
        whole, head = inputs[f"ref_{side}_logps"], inputs[f"ref_{side}_logps_head"]
        weighed[f"ref_{side}_logps"] = whole if alpha is None else head + alpha * (whole - head)
    expected = DPOTrainer._compute_loss(
        trainer(
            ld_alpha=alpha, f_divergence_type="reverse_kl", loss_types=[theirs], loss_weights=[1.0],
            label_smoothing=options.get("label_smoothing", 0.0), use_weighting=False,
        ),
        stand_in(rows),
        {"input_ids": mask, "attention_mask": mask, "completion_mask": mask, **weighed},
        False,
    )  # fmt: skip
    (theirs_gradient,) = torch.autograd.grad(expected, again_M)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(gradient, theirs_gradient, rtol=1e-5, atol=1e-9)


def test_simpo_and_orpos_odds_equal_trls() -> None:
    """Theirs take mean log-probabilities. ORPO's second term alone: their NLL is elsewhere, of the prompt too."""
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    chosen, rejected = torch.tensor([-1.2, -0.4]), torch.tensor([-0.9, -2.1])
    lengths = torch.tensor([4.0, 7.0])
    inputs = {"chosen_logps": chosen * lengths, "rejected_logps": rejected * lengths,
              "chosen_lengths": lengths, "rejected_lengths": lengths}  # fmt: skip
    them = SimpleNamespace(alpha=0.0, loss_type="simpo", simpo_gamma=0.7, beta=2.0, label_smoothing=0.0)
    them.accelerator = Accelerator()
    losses, chosen_rewards, rejected_rewards = CPOTrainer.cpo_loss(them, chosen, rejected)
    out = call("simpo", inputs, {"beta": 2.0, "gamma": 0.7})
    torch.testing.assert_close(out.losses, losses, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(out.chosen_rewards, chosen_rewards, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(out.rejected_rewards, rejected_rewards, rtol=1e-5, atol=1e-7)
    ratio = ORPOTrainer.odds_ratio_loss(them, chosen, rejected)[0]
    torch.testing.assert_close(call("orpo", inputs, {"beta": 2.0}).losses, -chosen - ratio, rtol=1e-5, atol=1e-6)


def test_kto_equals_trls() -> None:
    """Their batch holds the mismatched rows; its mean log-ratio is our reference point."""
    labels = torch.tensor([True, False, False])
    ours, reference = torch.tensor([-5.0, -9.0, -4.0]).requires_grad_(), torch.tensor([-6.0, -7.5, -4.5])
    mismatched, mismatched_reference = torch.tensor([-3.0, -2.0, -4.0]), torch.tensor([-3.5, -2.2, -3.9])
    point = (mismatched - mismatched_reference).mean().clamp(min=0)
    loss = kto(
        ours, reference, labels, point, beta=BETA, desirable_weight=1.3, undesirable_weight=0.7
    ).losses.mean()
    (gradient,) = torch.autograd.grad(loss, ours)

    again = ours.detach().clone().requires_grad_()
    rows = torch.cat([again[:, None], torch.zeros(3, 2)], dim=1)
    ids = torch.ones(3, 4, dtype=torch.long)
    mask = torch.tensor([[0, 1, 0, 0]]).expand(3, 4)
    them = trainer(
        loss_type="kto", calculate_KL=True, desirable_weight=1.3, undesirable_weight=0.7,
        _compute_kl_logps=lambda model, batch: mismatched,
    )  # fmt: skip
    batch = {"input_ids": ids, "attention_mask": ids, "completion_mask": mask, "label": labels,
             "ref_logps": reference, "ref_KL_logps": mismatched_reference}  # fmt: skip
    expected = KTOTrainer._compute_loss(them, stand_in(rows), batch, False)
    (theirs,) = torch.autograd.grad(expected, again)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(gradient, theirs, rtol=1e-5, atol=1e-9)
