"""Policy-gradient losses and the KL terms that go with them.

What reports call GRPO here, the course report's Eq. 6, is REINFORCE with a leave-one-out baseline (RLOO).
Values are per completion, with gradient; the caller divides by the total of the whole optimizer step.

KL(π‖π_ref) of whole sequences, y ~ π, r_t = log π(y_t|·) − log π_ref(y_t|·):
    k1 in the reward   Σ r_t, detached, subtracted from R before the baseline: unbiased (kl_k1)
    k2 as a loss       ½ (Σ r_t)², of the sequence and not by token: unbiased on policy (kl_k2)
    exact as a loss    Σ_t KL_t over the vocabulary, plus the score function of the prefix: unbiased (kl_exact)
    k3 as a loss       exp(−r_t) − 1 + r_t by token: its gradient is another divergence's, so it is BIASED;
                       kept for parity with DeepSeekMath (kl_k3)
    k1 as a loss       has an expected gradient of 0: not offered
docs/methods/grpo.md has the proofs, tests/losses/test_policy_gradient.py the enumeration.

Dimension suffixes: _M completion tokens, _C completions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from trimtab.devices import in_float64
from trimtab.late import torch

if TYPE_CHECKING:
    from torch import Tensor

Normalisation = Literal["sum", "tokens", "sequences", "constant"]
RatioLevel = Literal["token", "sequence"]


class PolicyGradient(NamedTuple):
    """The loss of each completion, and what became of its ratios.

    losses: [C], with gradient. ratios: detached importance ratios, [M] or [C]. clipped_low, clipped_high:
    same shape, where the clip took the gradient away.
    """

    losses: Tensor
    ratios: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


def policy_gradient(
    logps_M: Tensor,
    old_logps_M: Tensor,
    advantages_C: Tensor,
    owner_M: Tensor,
    *,
    ratio: RatioLevel = "token",
    clip_low: float | None = None,
    clip_high: float | None = None,
    weights_M: Tensor | None = None,
) -> PolicyGradient:
    """L_i = −Σ_t w_t · min(ρ_t A_i, clip(ρ_t, 1 − ε_low, 1 + ε_high) A_i),  ρ_t = π(y_t|·) / π_old(y_t|·)

    Shao et al. 2024 (arXiv 2402.03300), Eq. 3 without its 1/|o_i|, which `weigh_tokens` puts back. At
    π = π_old its gradient is −A_i ∇ log π(y_i|x): Eq. 6 of the course report. ratio "sequence" has one
    ρ_i = π(y_i|x) / π_old(y_i|x) for each completion, as Ahmadian et al. 2024 (RLOO) in TRL.

    logps_M with gradient, old_logps_M detached: [M]. advantages_C: [C]. owner_M: [M], the completion of each
    token. clip_low, clip_high: ε, None for no clip. weights_M: [M], detached factors of the tokens.
    """
    if logps_M.shape != old_logps_M.shape or logps_M.shape != owner_M.shape or advantages_C.dim() != 1:
        raise ValueError(
            f"expected [M], [M], [C], [M]; got {tuple(logps_M.shape)}, {tuple(old_logps_M.shape)}, "
            f"{tuple(advantages_C.shape)}, {tuple(owner_M.shape)}"
        )
    if ratio == "sequence":
        if weights_M is not None:
            raise ValueError("token weights need ratio='token'")
        log_ratios = sum_by(logps_M - old_logps_M, owner_M, advantages_C.numel())
        advantages = advantages_C
    else:
        log_ratios, advantages = logps_M - old_logps_M, advantages_C[owner_M]
    ratios = log_ratios.exp()
    low = 1 - clip_low if clip_low is not None else 0.0
    high = 1 + clip_high if clip_high is not None else float("inf")
    terms = torch.minimum(ratios * advantages, ratios.clamp(low, high) * advantages)
    detached = ratios.detach()
    clipped_low, clipped_high = (detached < low) & (advantages < 0), (detached > high) & (advantages > 0)
    if ratio == "sequence":
        return PolicyGradient(-terms, detached, clipped_low, clipped_high)
    if weights_M is not None:
        terms = terms * weights_M
    return PolicyGradient(-sum_by(terms, owner_M, advantages_C.numel()), detached, clipped_low, clipped_high)


def weigh_tokens(lengths_C: Tensor, owner_M: Tensor, normalisation: Normalisation) -> Tensor | None:
    """Factors [M] of the tokens: 1/|y_i| for "sequences" (DeepSeekMath), else none."""
    return (1.0 / lengths_C)[owner_M] if normalisation == "sequences" else None


def normaliser(normalisation: Normalisation, completions: int, tokens: int, cap: int) -> float:
    """What the step's sum is divided by.

    sum: completions (Eq. 6: whole-sequence log-probabilities). sequences: completions, each a mean of its
    tokens (DeepSeekMath). tokens: completion tokens (DAPO, Yu et al. 2025). constant: completions × cap
    (Dr. GRPO, Liu et al. 2025).
    """
    return {"sum": completions, "sequences": completions, "tokens": tokens, "constant": completions * cap}[
        normalisation
    ]


def importance_weights(policy_logps_M: Tensor, sampler_logps_M: Tensor, cap: float) -> Tensor:
    """min(π(y_t|·) / μ(y_t|·), cap): truncated per-token weights for samples of μ, e.g. of a temperature ≠ 1.

    Ionides 2008. Biased: it corrects each token's own draw and not its prefix's, and it is cut at `cap`; the
    product over a sequence would be unbiased and of hopeless variance. [M], [M] -> [M], detached.
    """
    return (policy_logps_M - sampler_logps_M).detach().exp().clamp(max=cap)


def effective_sample_size(policy_logps_M: Tensor, sampler_logps_M: Tensor, owner_M: Tensor, count: int) -> float:
    """(Σ w)² / (C Σ w²) of whole-sequence weights w = π/μ: the share of the samples that still counts, 0 to 1."""
    exact_M = in_float64((policy_logps_M - sampler_logps_M).detach())
    log_weights = sum_by(exact_M, owner_M.to(exact_M.device), count)
    return float((2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp() / count)


def kl_k1(logps_M: Tensor, ref_logps_M: Tensor, owner_M: Tensor, count: int) -> Tensor:
    """Σ_t r_t of each completion, detached: [C]. To be subtracted from the reward."""
    return sum_by((logps_M - ref_logps_M).detach(), owner_M, count)


def kl_k2(logps_M: Tensor, ref_logps_M: Tensor, owner_M: Tensor, count: int) -> Tensor:
    """½ (Σ_t r_t)²: [C]. Its gradient is (Σ r_t) ∇ log π(y|x), the score function of KL(π‖π_ref)."""
    return 0.5 * sum_by(logps_M - ref_logps_M, owner_M, count) ** 2


def kl_k3(
    logps_M: Tensor, ref_logps_M: Tensor, owner_M: Tensor, count: int, weights_M: Tensor | None = None
) -> Tensor:
    """Σ_t w_t (exp(−r_t) − 1 + r_t): [C]. Schulman 2020; Shao et al. 2024, Eq. 4. Biased as a loss (see above).

    weights_M: as in policy_gradient; None is 1. The exponent is held below 20: beyond it the term is no
    estimate of anything, and overflows.
    """
    r_M = logps_M - ref_logps_M
    terms_M = torch.exp((-r_M).clamp(max=20.0)) - 1 + r_M
    return sum_by(terms_M if weights_M is None else terms_M * weights_M, owner_M, count)


def kl_exact(kl_M: Tensor, logps_M: Tensor, owner_M: Tensor, lengths_C: Tensor) -> Tensor:
    """Σ_t KL_t + Σ_t log π(y_t|·) · [Σ_{u>t} KL_u], the bracket detached: [C].

    kl_M: [M], with gradient, KL(π(·|y_<t) ‖ π_ref(·|y_<t)) over the vocabulary. The second sum is the score
    function of the prefixes at which the KLs are taken; without it the gradient is biased. The value
    that is logged is Σ_t KL_t alone.
    """
    count = lengths_C.numel()
    score = sum_by(logps_M * future_sums(kl_M, owner_M, lengths_C), owner_M, count)
    return sum_by(kl_M, owner_M, count) + score - score.detach()


def future_sums(values_M: Tensor, owner_M: Tensor, lengths_C: Tensor) -> Tensor:
    """Σ_{u>t} value_u within each completion, detached: [M] -> [M]."""
    running = in_float64(values_M.detach()).cumsum(0)
    ends, owner_M = (lengths_C.cumsum(0) - 1).to(running.device), owner_M.to(running.device)
    # Rounded before it moves: not every device has float64.
    return (running[ends][owner_M] - running).to(values_M.dtype).to(values_M.device)


def sum_by(values_M: Tensor, owner_M: Tensor, count: int) -> Tensor:
    """Adds a value per token up to one per completion: [M] -> [C]."""
    return values_M.new_zeros(count).index_add(0, owner_M, values_M)
