"""The length penalty: E[max(0, ℓ(ŷ) − ℓ(y))²] with ŷ ~ π(·|x), and estimators of its gradient.

Eq. 3 of the course report, with ℓ in tokens, stop token included, and ℓ(y) the chosen completion's. The
report adds the penalty of a sample to the loss. A sample's length has no gradient, so that changes the
printed loss and nothing else (`literal`, kept to show it). Two estimators have one:

    score_function   (f(ŷ_i) − leave-one-out mean f) · ∇ log π(ŷ_i|x), K ≥ 2 samples. Unbiased.
    stop_hazard      along a path of content tokens, sampled with all stop tokens excluded, the stopping
                     time is known exactly: with h_t the stop tokens' probability at step t and
                     S_t = ∏_{s≤t} (1 − h_s),  E[f | path] = Σ_t h_t S_{t−1} f(t) + S_n f(cap).
                     Its gradient through h samples nothing; adding the score function of the content
                     tokens, with what follows each as its reward, makes it unbiased.

Values are per sample or path, with gradient: their mean over samples and prompts is the penalty.

Dimension suffixes: _C samples or paths, _T steps (padded), _M tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from trimtab.devices import in_float64
from trimtab.late import torch

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["stop_hazard", "score_function", "literal"]
SURVIVAL = 1e-4
"""A content path may end once less than this share of its mass survives."""


def penalty(lengths: Tensor, targets: Tensor) -> Tensor:
    """f(ℓ) = max(0, ℓ − target)², in tokens squared; any shapes that broadcast."""
    return in_float64((lengths - targets).clamp(min=0)) ** 2


def score_function(logps_C: Tensor, lengths_C: Tensor, targets_C: Tensor, samples: int) -> Tensor:
    """f_i + (f_i − mean_{j≠i} f_j) · (log π(ŷ_i|x) − its value): [C], the penalties with their gradient.

    Williams 1992, with the baseline of Kool et al. 2019. logps_C: whole-sequence log-probabilities, with
    gradient, of consecutive groups of `samples` ≥ 2 for each prompt. A sample cut at the cap has the cap's length.
    """
    if samples < 2 or logps_C.numel() % samples:
        raise ValueError(f"score_function needs groups of at least two samples, got {samples} of {logps_C.numel()}")
    f_PK = penalty(lengths_C, targets_C).view(-1, samples)
    advantages_C = ((f_PK - f_PK.mean(1, keepdim=True)) * (samples / (samples - 1))).flatten()
    score_C = advantages_C * in_float64(logps_C)
    return f_PK.flatten() + score_C - score_C.detach()


def literal(logps_C: Tensor, lengths_C: Tensor, targets_C: Tensor) -> Tensor:
    """f_i, added to the loss as the report does: [C], with a gradient of exactly 0."""
    return penalty(lengths_C, targets_C) + 0.0 * in_float64(logps_C)


def stop_hazard(
    logps_CT: Tensor,
    stop_logps_CT: Tensor,
    mask_CT: Tensor,
    targets_C: Tensor,
    ends_C: Tensor,
    samples: int = 1,
    pathwise_only: bool = False,
) -> Tensor:
    """E[f | path] with an unbiased gradient: [C].

    logps_CT: log π of the path's content tokens, and stop_logps_CT: log h_t, of all stop tokens together
    at the same steps, both with gradient and not renormalised. mask_CT: True on the path's tokens, which
    come first. ends_C: the length that the surviving mass has: the cap, or one more than the path where
    it ended because less than SURVIVAL of it was left. samples: paths for each prompt, consecutive.

    Baselines of the content's score function: of several paths the others' mean at the same step; of one,
    S_t f(t + 1), what the mass that is left costs at least. Neither depends on the token that it judges.
    pathwise_only leaves the content's score function out: biased, of smaller variance.
    """
    logps_CT, stop_logps_CT = in_float64(logps_CT), in_float64(stop_logps_CT)
    mask_CT, targets_C, ends_C = (x.to(logps_CT.device) for x in (mask_CT, targets_C, ends_C))
    h_CT = torch.where(mask_CT, stop_logps_CT.exp(), 0.0).clamp(max=1.0)
    survival_CT = torch.cumprod(1 - h_CT, dim=1)
    before_CT = torch.cat([torch.ones_like(survival_CT[:, :1]), survival_CT[:, :-1]], dim=1)
    steps_T = torch.arange(1, h_CT.shape[1] + 1, device=h_CT.device)
    f_CT = penalty(steps_T[None], targets_C[:, None])
    stopped_CT = h_CT * before_CT * f_CT
    tail_C = survival_CT[:, -1] * penalty(ends_C, targets_C)
    expected_C = stopped_CT.sum(1) + tail_C
    if pathwise_only:
        return expected_C
    with torch.no_grad():
        # What is still to come after each token: the sum over later stops, and the tail.
        future_CT = stopped_CT.sum(1, keepdim=True) - stopped_CT.cumsum(1) + tail_C[:, None]
        if samples > 1:
            future_PKT = future_CT.view(-1, samples, h_CT.shape[1])
            others_PKT = (future_PKT.sum(1, keepdim=True) - future_PKT) / (samples - 1)
            baseline_CT = others_PKT.flatten(0, 1)
        else:
            least_CT = torch.minimum(steps_T[None] + 1, ends_C[:, None])
            baseline_CT = survival_CT * penalty(least_CT, targets_C[:, None])
        reward_CT = torch.where(mask_CT, future_CT - baseline_CT, 0.0)
    # log q of the content token under the renormalised distribution that it was drawn from.
    content_CT = torch.where(mask_CT, logps_CT - torch.log1p(-h_CT.clamp(max=1 - 1e-9)), 0.0)
    score_C = (reward_CT * content_CT).sum(1)
    return expected_C + score_C - score_C.detach()


def pad_rows(values_M: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Ragged [M] -> [C, T] padded with zeros, and its mask."""
    rows = torch.nn.utils.rnn.pad_sequence(list(torch.split(values_M, list(lengths))), batch_first=True)
    steps = torch.arange(rows.shape[1], device=values_M.device)
    return rows, steps[None] < torch.tensor(lengths, device=values_M.device)[:, None]
