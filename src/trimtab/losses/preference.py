"""Losses on preference pairs: log-probabilities in, losses and implicit rewards out.

To add a loss: one function here, one entry in losses/table.py, one test. A function names the inputs that it
needs, and gets those; what follows the * are its settings.

    chosen_logps, rejected_logps            [P]  Σ_t log π(y_t | x, y_<t) over completion tokens
    ref_chosen_logps, ref_rejected_logps    [P]  the reference's; a loss that names none needs no reference
    chosen_lengths, rejected_lengths        [P]  completion tokens
    failing_logps, keeping_logps            [P]  of rows under length instructions: losses/response_conditioned.py
    *_head                                  [P]  the sums over the first min(|y_w|, |y_l|) tokens only
    chosen_win_rates, rejected_win_rates    [P]  estimated, 0 to 1: the scores of the row

Below, ρ = log π(y|x)/π_ref(y|x), w is the chosen completion and l the rejected one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trimtab.late import F, torch

if TYPE_CHECKING:
    from torch import Tensor


class PreferenceLoss(NamedTuple):
    """losses: [P], one per pair, with gradient. rewards: [P] each, detached: what the loss compares.
    length_margins: [2 P], detached: differences of one completion's rewards under two prompts; rc_dpo's alone."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    length_margins: Tensor | None = None


def check(*tensors: Tensor) -> None:
    """Raises ValueError unless all are [P]."""
    if len(shapes := {t.shape for t in tensors}) != 1 or tensors[0].dim() != 1:
        raise ValueError(f"expected {len(tensors)} tensors [P], got {sorted(map(tuple, shapes))}")


def dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """L = −(1−ε) log σ(β [ρ_w − ρ_l]) − ε log σ(−β [ρ_w − ρ_l])

    Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7; ε: conservative DPO (Mitchell 2023), labels wrong at that
    rate, 0 ≤ ε < ½. All inputs: [P], summed over completion tokens. beta > 0 weighs the implicit KL to the
    reference. Equal models give ln 2 and rewards of 0.
    """
    check(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    check_smoothing(label_smoothing)
    chosen_logratios = chosen_logps - ref_chosen_logps
    rejected_logratios = rejected_logps - ref_rejected_logps
    margins = beta * (chosen_logratios - rejected_logratios)
    losses = -F.logsigmoid(margins)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * F.logsigmoid(-margins)
    return PreferenceLoss(losses, beta * chosen_logratios.detach(), beta * rejected_logratios.detach())


def robust(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.1,
) -> PreferenceLoss:
    """L = [−(1−ε) log σ(β [ρ_w − ρ_l]) + ε log σ(−β [ρ_w − ρ_l])] / (1 − 2ε)

    Chowdhury et al. 2024 (arXiv 2403.00409), Eq. 12: unbiased for DPO's loss where labels are flipped at rate
    ε < ½. All inputs: [P]. May be negative.
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    check_smoothing(label_smoothing)
    # The flipped loss is −log σ(−m) = m − log σ(m).
    flipped = out.losses + beta * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps)
    losses = ((1 - label_smoothing) * out.losses - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    return out._replace(losses=losses)


def check_smoothing(label_smoothing: float) -> None:
    """ValueError for a rate of wrong labels that is none."""
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be at least 0 and below 0.5, got {label_smoothing}")


def hinge(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """L = max(0, 1 − β [ρ_w − ρ_l])

    Zhao et al. 2023, SLiC (arXiv 2305.10425), Eq. 3, with the reference of DPO in it, as in Liu et al. 2024,
    RSO (arXiv 2309.06657). All inputs: [P].
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    margins = beta * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps)
    return out._replace(losses=torch.relu(1 - margins))


def dpop(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
    penalty: float = 50.0,
) -> PreferenceLoss:
    """L = −log σ(β [ρ_w − ρ_l − λ max(0, −ρ_w)])

    Pal et al. 2024, DPO-Positive (arXiv 2402.13228), Eq. 3, λ `penalty` (theirs is 50): a chosen completion that
    becomes less likely than under the reference costs, however much the rejected one has fallen. All inputs: [P].
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    chosen, rejected = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    return out._replace(losses=-F.logsigmoid(beta * (chosen - rejected - penalty * torch.relu(-chosen))))


def ipo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """L = (ρ_w − ρ_l − 1/(2β))²

    Azar et al. 2023 (arXiv 2310.12036), Eq. 17, with β for τ. All inputs: [P], summed over tokens, so that
    long completions meet the target by moving each token less.
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    margins = chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps
    return out._replace(losses=(margins - 1 / (2 * beta)) ** 2)


def ipo_averaged(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """L = (ρ_w/|y_w| − ρ_l/|y_l| − 1/(2β))²

    IPO by token, as TRL has it (its authors confirmed to them that it is what their results are of). All
    inputs: [P]. The rewards are of whole sequences, as in TRL.
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    chosen = (chosen_logps - ref_chosen_logps) / chosen_lengths
    rejected = (rejected_logps - ref_rejected_logps) / rejected_lengths
    return out._replace(losses=(chosen - rejected - 1 / (2 * beta)) ** 2)


def sppo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """L = (ρ_w − 1/(2β))² + (ρ_l + 1/(2β))²

    Wu et al. 2024 (arXiv 2405.00675), Eq. 4.7 with η = 1/β, the win probabilities taken as 1 and 0. All
    inputs: [P]. The reference is the policy of the round before: a stage is one round.
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    target = 1 / (2 * beta)
    chosen, rejected = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    return out._replace(losses=(chosen - target) ** 2 + (rejected + target) ** 2)


def sppo_estimated(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_win_rates: Tensor,
    rejected_win_rates: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """L = (ρ_w − (P̂_w − ½)/β)² + (ρ_l − (P̂_l − ½)/β)²

    Wu et al. 2024 (arXiv 2405.00675), Algorithm 1 with η = 1/β and log Z taken as η/2, on two of a prompt's
    samples. P̂: the estimated probability that the completion beats one of the round's policy, 0 to 1
    (methods/pairing.py). All inputs: [P]. P̂ of 1 and 0 give `sppo`. The authors' code halves the sum.
    """
    check(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_win_rates, rejected_win_rates)
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    chosen = chosen_logps - ref_chosen_logps - (chosen_win_rates - 0.5) / beta
    rejected = rejected_logps - ref_rejected_logps - (rejected_win_rates - 0.5) / beta
    return out._replace(losses=chosen**2 + rejected**2)


def cal_dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
    calibration: float = 1.0,
) -> PreferenceLoss:
    """L = −log σ(ρ_w − ρ_l) + c [(ρ_w − 1/(2β))² + (ρ_l + 1/(2β))²]

    Xiao et al. 2024, Cal-DPO (arXiv 2412.14516): the log-ratios themselves are to be the rewards ±1/(2β), so
    that the chosen one's cannot fall with the rejected one's. c = 1 is the paper's; its code has ½. All
    inputs: [P].
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=1.0)
    calibrated = sppo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    return calibrated._replace(losses=out.losses + calibration * calibrated.losses)


def ld_dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_logps_head: Tensor,
    rejected_logps_head: Tensor,
    ref_chosen_logps_head: Tensor,
    ref_rejected_logps_head: Tensor,
    *,
    beta: float,
    alpha: float = 0.5,
) -> PreferenceLoss:
    """DPO on log π̂(y|x) = Σ_{t ≤ n} log π(y_t) + α Σ_{t > n} log π(y_t), n = min(|y_w|, |y_l|)

    Liu et al. 2024, LD-DPO (arXiv 2409.06411), Eq. 11: what only the longer completion has counts less.
    α = 1 is DPO. All inputs: [P]; the rewards are of whole sequences only at α = 1.
    """

    def weighed(whole: Tensor, head: Tensor) -> Tensor:
        return head + alpha * (whole - head)

    return dpo(
        weighed(chosen_logps, chosen_logps_head),
        weighed(rejected_logps, rejected_logps_head),
        weighed(ref_chosen_logps, ref_chosen_logps_head),
        weighed(ref_rejected_logps, ref_rejected_logps_head),
        beta=beta,
    )


def r_dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    alpha: float = 0.01,
) -> PreferenceLoss:
    """L = −log σ(β [ρ_w − ρ_l] + α (|y_w| − |y_l|))

    Park et al. 2024 (arXiv 2403.19159), Eq. 9: a pair that the longer completion wins is explained in part by
    its length, and teaches less. All inputs: [P], lengths in tokens.
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    margins = beta * (chosen_logps - ref_chosen_logps - rejected_logps + ref_rejected_logps)
    return out._replace(losses=-F.logsigmoid(margins + alpha * (chosen_lengths - rejected_lengths)))


def apo_zero(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """L = 1 − σ(β ρ_w) + σ(β ρ_l)

    D'Oosterlinck et al. 2024 (arXiv 2408.06266), Eq. 7: raises the chosen and lowers the rejected, each by
    itself. All inputs: [P].
    """
    out = dpo(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=beta)
    chosen, rejected = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    return out._replace(losses=1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected))


def simpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
    gamma: float = 0.5,
) -> PreferenceLoss:
    """L = −log σ(β log π(y_w|x)/|y_w| − β log π(y_l|x)/|y_l| − γ)

    Meng et al. 2024 (arXiv 2405.14734), Eq. 6. No reference; its β is larger than DPO's, 2 to 10. All inputs:
    [P]. Rewards: β times the mean log-probability of a token.
    """
    check(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    chosen, rejected = beta * chosen_logps / chosen_lengths, beta * rejected_logps / rejected_lengths
    return PreferenceLoss(-F.logsigmoid(chosen - rejected - gamma), chosen.detach(), rejected.detach())


def orpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
) -> PreferenceLoss:
    """L = −log P(y_w|x) − β log σ(log odds(y_w|x) − log odds(y_l|x)),  odds = P/(1 − P)

    Hong et al. 2024 (arXiv 2403.07691), Eq. 6 and 7, β for λ: P(y|x) is the geometric mean of the tokens'
    probabilities, exp(log π(y|x)/|y|). No reference: trains SFT and preference at once, from a base model.
    All inputs: [P]. Where we depart from its code: the first term is of the completion alone, not of the prompt.
    """
    check(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths)
    chosen, rejected = chosen_logps / chosen_lengths, rejected_logps / rejected_lengths
    odds = (chosen - _log_one_minus_exp(chosen)) - (rejected - _log_one_minus_exp(rejected))
    return PreferenceLoss(-chosen - beta * F.logsigmoid(odds), beta * chosen.detach(), beta * rejected.detach())


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x < 0, without cancellation; x = 0 counts as the next number below it."""
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > -0.6931471805599453
    # Each branch is fed what is safe for it, so that the other's gradient is never NaN.
    close = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, close, far)
