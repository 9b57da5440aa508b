"""PPO with a value function: the reward of each token, advantages, and the value's loss.

Schulman et al. 2017 (arXiv 1707.06347); generalised advantages: Schulman et al. 2016 (arXiv 1506.02438); for
language models: Ouyang et al. 2022 (arXiv 2203.02155). A token is an action, its prefix the state, and an episode
ends with a completion's last token, whether that is a stop token or the cap's: nothing is bootstrapped behind it.
The clipped policy loss is policy_gradient's, with an advantage for each token.

Dimension suffixes: _M completion tokens, _C completions, _T tokens of the longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trimtab.devices import in_float64
from trimtab.late import torch

if TYPE_CHECKING:
    from torch import Tensor

WHITENING_EPSILON = 1e-8
"""Added to the variance."""


def token_rewards(
    scores_C: Tensor, logps_M: Tensor, ref_logps_M: Tensor, lengths_C: Tensor, kl_coefficient: float
) -> Tensor:
    """r_t = −β (log π_old(y_t|·) − log π_ref(y_t|·)), and the completion's score on top at its last token.

    Ouyang et al. 2022, Eq. 2 without its pretraining term: Σ_t r_t is R(x, y) − β log π_old(y|x)/π_ref(y|x), whose
    penalty has the mean β KL(π_old‖π_ref). Detached. [C], [M], [M], [C] -> [M].
    """
    rewards_M = -kl_coefficient * (logps_M - ref_logps_M).detach()
    return rewards_M.index_add(0, lengths_C.cumsum(0) - 1, scores_C.to(rewards_M.dtype))


class Advantages(NamedTuple):
    """Advantages and returns of each token, [M], detached. returns: the value's targets, Â_t + V_t."""

    advantages: Tensor
    returns: Tensor


def gae(rewards_M: Tensor, values_M: Tensor, lengths_C: Tensor, gamma: float, lam: float) -> Advantages:
    """Â_t = Σ_{l ≥ 0} (γλ)^l δ_{t+l},  δ_t = r_t + γ V_{t+1} − V_t,  V behind the last token 0, by completion.

    Schulman et al. 2016, Eq. 16, over a finite episode (Schulman et al. 2017, Eq. 11), from the back:
    Â_t = δ_t + γλ Â_{t+1}. λ = 1: Σ_l γ^l r_{t+l} − V_t, unbiased whatever V is; λ < 1 trades variance for the
    bias of V. The sums are taken in float64. [M], [M], [C] -> [M] each.
    """
    if rewards_M.shape != values_M.shape or rewards_M.dim() != 1 or int(lengths_C.sum()) != rewards_M.numel():
        raise ValueError(
            f"expected [M], [M] and lengths that add up to M; got {tuple(rewards_M.shape)}, "
            f"{tuple(values_M.shape)}, {int(lengths_C.sum())}"
        )
    longest, exact_M = int(lengths_C.max()), in_float64(values_M.detach())
    lengths_C = lengths_C.to(exact_M.device)
    real_CT = torch.arange(longest, device=exact_M.device) < lengths_C[:, None]
    rewards_CT = exact_M.new_zeros(real_CT.shape)
    values_CT, advantages_CT = rewards_CT.clone(), rewards_CT.clone()
    rewards_CT[real_CT], values_CT[real_CT] = in_float64(rewards_M.detach()), exact_M
    following_C, value_C = rewards_CT.new_zeros(len(lengths_C)), rewards_CT.new_zeros(len(lengths_C))
    for t in reversed(range(longest)):  # behind a completion's end all is 0, and stays 0
        delta_C = rewards_CT[:, t] + gamma * value_C - values_CT[:, t]
        following_C = advantages_CT[:, t] = delta_C + gamma * lam * following_C
        value_C = values_CT[:, t]
    found_M = advantages_CT[real_CT]
    returns_M = found_M + exact_M
    return Advantages(_as(found_M, values_M), _as(returns_M, values_M))


def _as(exact_M: Tensor, like: Tensor) -> Tensor:
    """Rounded before it moves: not every device has float64."""
    return exact_M.to(like.dtype).to(like.device)


def whiten(values_M: Tensor) -> Tensor:
    """(x − mean) / √(variance + ε), variance with M − 1; a lone value becomes 0. [M] -> [M]."""
    if values_M.numel() < 2:
        return torch.zeros_like(values_M)
    x_M = in_float64(values_M)
    return _as((x_M - x_M.mean()) / (x_M.var() + WHITENING_EPSILON).sqrt(), values_M)


class ValueLoss(NamedTuple):
    """The value head's loss of each token.

    losses: [M], with gradient. clipped: [M], where the clip took the gradient away.
    """

    losses: Tensor
    clipped: Tensor


def value_loss(values_M: Tensor, old_values_M: Tensor, returns_M: Tensor, clip: float | None) -> ValueLoss:
    """½ max((V_t − R_t)², (clip(V_t, V_old,t − ε, V_old,t + ε) − R_t)²); without a clip ½ (V_t − R_t)².

    The squared error of Schulman et al. 2017, Eq. 9. Its clip is not in the paper but in its authors' code and in
    Ouyang et al.'s lineage: V moves by ε at most on one batch where that brings it nearer to R, and is free to
    come back. In units of the reward. values_M with gradient; [M] each.
    """
    errors_M = (values_M - returns_M) ** 2
    if clip is None:
        return ValueLoss(0.5 * errors_M, torch.zeros_like(errors_M, dtype=torch.bool))
    held_M = old_values_M + (values_M - old_values_M).clamp(-clip, clip)
    held_errors_M = (held_M - returns_M) ** 2
    moved_M = (values_M - old_values_M).abs() > clip
    return ValueLoss(0.5 * torch.maximum(errors_M, held_errors_M), moved_M & (held_errors_M > errors_M).detach())


def explained_variance(values_M: Tensor, returns_M: Tensor) -> float | None:
    """1 − Var(R − V) / Var(R): 1 where V says all of it, 0 where a constant does as well. None of equal returns."""
    returns_M, values_M = in_float64(returns_M), in_float64(values_M)
    spread = float(returns_M.var(correction=0))
    if spread == 0:
        return None
    return 1 - float((returns_M - values_M).var(correction=0)) / spread
