"""Sampling with transformers' models, on any machine.

A prompt is computed once for its k samples (see rows.py), all samples of a batch take a step together, and
rows of finished samples leave the batch. Every sample has its own uniform numbers, drawn before anything
else, and takes its tokens by inverse CDF: batches, their order and the rows that left decide nothing, up
to rounding in the logits.

Dimension suffixes: _P prompts, _K samples of a prompt, _R samples of a batch, _B those still in it,
_T new tokens, _V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from trimtab.models.one_token import OneTokenPass
from trimtab.models.policy import Policy
from trimtab.rollout.beams import BeamRules, generate_beams, search_beams
from trimtab.rollout.logps import evaluating
from trimtab.rollout.nucleus import nucleus
from trimtab.rollout.rows import Prompts, one_token_pass, serves_cache
from trimtab.rollout.sampler import Finish, Sample, Sampler, Sampling, check_prompts, nan_logits_error

Item = TypeVar("Item")
UNIT = 2.0**50
"""Probabilities become whole numbers of 1/UNIT before they are added up: their sums are exact, so that
they are the same in any order, and a token of probability 0 is never drawn."""
BLOCK, MANY = 256, 2**17
"""Tokens whose probabilities are added up together, where the vocabulary can be cut so and the rows hold many."""
ACTIVE_SHARE = 0.75
"""Rows of finished samples are dropped once less than this share of the rows is active."""
BEAM_ROWS = 128
"""Beams of a batch in beam search."""


@dataclass
class Temperatures:
    """Of a batch's rows. divide: [B, 1], 1 standing for 0, or None where all are 1; greedy: where they are
    0, [B] boolean, or None."""

    divide: Tensor | None
    greedy: Tensor | None

    @classmethod
    def of(cls, values: Sequence[float], device: torch.device) -> Temperatures:
        """Those of rows with these temperatures, 0 for greedy."""
        divide = [value or 1.0 for value in values]
        greedy = [value == 0 for value in values]
        return cls(
            torch.tensor(divide, device=device)[:, None] if set(divide) != {1.0} else None,
            torch.tensor(greedy, device=device) if any(greedy) else None,
        )

    def keep(self, index: Tensor) -> None:
        """Drops all rows but these."""
        self.divide = None if self.divide is None else self.divide[index]
        self.greedy = None if self.greedy is None else self.greedy[index]


@dataclass(frozen=True)
class Drawn:
    """One token a row, all [B]. log_kept: the log of what the excluded tokens leave at the row's temperature
    (at 1 where it is 0); None without exclusions."""

    token: Tensor
    logp: Tensor
    policy_logp: Tensor
    log_kept: Tensor | None


def invert_cdf(probability_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The tokens [B] at which the distribution functions pass the uniform numbers, of [0, 1), float64."""
    rows, vocabulary = probability_BV.shape
    count_BV = (probability_BV * UNIT).long()
    if probability_BV.numel() < MANY:
        return _passed(count_BV.cumsum(-1), uniform_B)[0][:, 0]
    # Sums are exact: those of blocks find the block, and only its own tokens are added up one by one.
    size = math.gcd(vocabulary, BLOCK)
    count_BNS = count_BV.view(rows, -1, size)
    cdf_BN = count_BNS.sum(-1).cumsum(-1)
    block_B1, mark_B1 = _passed(cdf_BN, uniform_B)
    cdf_BS = count_BNS[torch.arange(rows, device=block_B1.device), block_B1[:, 0]].cumsum(-1)
    cdf_BS += cdf_BN.gather(1, block_B1) - cdf_BS[:, -1:]
    return (block_B1 * size + torch.searchsorted(cdf_BS, mark_B1, right=True))[:, 0]


def _passed(cdf_BN: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Where each function passes its uniform number's share of its whole, and that share: [B, 1] both."""
    # The product is below the sum, also after rounding, since uniform numbers are at most 1 - 2^-53.
    mark_B1 = (uniform_B[:, None] * cdf_BN[:, -1:]).long()
    return torch.searchsorted(cdf_BN, mark_B1, right=True), mark_B1


def draw(
    logits_BV: Tensor, uniform_B: Tensor, temperatures: Temperatures, excluded: Tensor | None, top_p: float = 1.0
) -> Drawn:
    """Draws from softmax(logits / T) without the excluded tokens, renormalised; the argmax where T is 0.

    logits_BV: any float type. excluded: token ids [n]. top_p: below 1, from the nucleus alone; the log-probability
    is then still that of the whole distribution. At T = 0 the distribution is a point: logp is 0.
    """
    logits_BV = logits_BV.float()
    policy_BV = torch.log_softmax(logits_BV, dim=-1)
    logp_BV, log_kept_B = policy_BV, None
    if temperatures.divide is not None:
        logp_BV = torch.log_softmax(logits_BV / temperatures.divide, dim=-1)
    if excluded is not None:
        logp_BV = logp_BV.index_fill(1, excluded, -torch.inf)
        log_kept_B = torch.logsumexp(logp_BV, dim=-1)
        logp_BV = logp_BV - log_kept_B[:, None]
    drawn_BV = logp_BV if top_p == 1 else nucleus(logp_BV, top_p)
    token_B = invert_cdf(drawn_BV.exp(), uniform_B)
    greedy_B = temperatures.greedy
    if greedy_B is not None:
        token_B = torch.where(greedy_B, logp_BV.argmax(-1), token_B)
    policy_logp_B = logp_B = policy_BV.gather(1, token_B[:, None])[:, 0]
    if logp_BV is not policy_BV:
        logp_B = logp_BV.gather(1, token_B[:, None])[:, 0]
    if greedy_B is not None:
        logp_B = logp_B.masked_fill(greedy_B, 0.0)
    return Drawn(token_B, logp_B, policy_logp_B, log_kept_B)


@dataclass(frozen=True)
class Rules:
    """What may be drawn and what ends a sample. stops: tokens that do; excluded: ids [n] or None. top_p: below 1,
    only a nucleus is drawn from."""

    cap: int
    stops: frozenset[int]
    excluded: Tensor | None
    log_survival: float
    top_p: float = 1.0


class TransformersSampler(Sampler):
    """Samples from a policy in the process that trains it, under the caller's autocast if there is one."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        k: int,
        sampling: Sampling,
        *,
        seed: int,
        stops: Sequence[int],
        excluded: Sequence[int] = (),
        survival: float = 0.0,
        places: Sequence[int] | None = None,
        top_p: float = 1.0,
        targets: Sequence[int] | None = None,
    ) -> list[list[Sample]]:
        """See Sampler.sample. A sample's draws depend on the seed, its prompt's place, its own place, k and
        max_new_tokens. Prompts are decoded by length, batch_size samples at a time.

        top_p: below 1, only the nucleus is drawn from, for evaluation: the samples' log-probabilities are those of
        the whole distribution. targets: what each prompt's rows count down from, for a policy that does.

        Raises TrimtabError where a prompt is empty or too long, and where the policy's logits are NaN.
        """
        if k < 1:
            raise ValueError(f"k={k}: a prompt needs a sample")
        cap, size = sampling.max_new_tokens, sampling.batch_size
        check_prompts(prompts, cap, self._room)
        rules = replace(self._rules(cap, stops, excluded, survival), top_p=top_p)
        generator = torch.Generator().manual_seed(seed)
        shape = (1 + max(places or range(len(prompts)), default=-1), k, cap)
        uniform_PKT = torch.rand(shape, dtype=torch.float64, generator=generator)
        if places is not None:
            uniform_PKT = uniform_PKT[list(places)]
        temperatures = [sampling.temperatures[i % len(sampling.temperatures)] for i in range(k)]
        out: list[list[Sample]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        with evaluating(self.policy):
            one_token = one_token_pass(self.policy)
            for part in _cut(order, max(1, size // k)):
                some = targets and [targets[i] for i in part]
                computed = self._computed([prompts[i] for i in part], some, one_token)
                for pairs in _cut([(p, i) for p in range(len(part)) for i in range(k)], size):
                    chosen = [part[p] for p, _ in pairs], [i for _, i in pairs]
                    warm = [temperatures[i] for i in chosen[1]]
                    row_R = torch.tensor([p for p, _ in pairs], device=self.policy.device)
                    with steps_of(one_token):
                        samples = _decode(computed, row_R, uniform_PKT[chosen], warm, rules)
                    for place, sample in zip(chosen[0], samples, strict=True):
                        out[place].append(sample)
        return out

    def beam(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_beams: int,
        length_penalty: float,
        max_new_tokens: int,
        stops: Sequence[int],
        targets: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """The best beam of each prompt, as transformers' generate finds it, its stop token included."""
        check_prompts(prompts, max_new_tokens, self._room)
        rules = BeamRules(num_beams, length_penalty, max_new_tokens, stops)
        out: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        cached = serves_cache(self.policy)
        with evaluating(self.policy):
            one_token = one_token_pass(self.policy)
            for places in _cut(order, max(1, BEAM_ROWS // num_beams)):
                some = [prompts[i] for i in places]
                if cached:
                    wanted = targets and [targets[i] for i in places]
                    computed = self._computed(some, wanted, one_token)
                    with steps_of(one_token):
                        rows = search_beams(computed, rules)
                else:
                    rows = generate_beams(self.policy, some, rules)
                for place, row in zip(places, rows, strict=True):
                    out[place] = row
        return out

    def _computed(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[int] | None, one_token: OneTokenPass | None
    ) -> Prompts:
        computed = Prompts(self.policy, prompts, targets, one_token)
        if computed.logits_PV.isnan().any():
            raise nan_logits_error()
        return computed

    @property
    def _room(self) -> int | None:
        return getattr(self.policy.model.config, "max_position_embeddings", None)

    def _rules(self, cap: int, stops: Sequence[int], excluded: Sequence[int], survival: float) -> Rules:
        vocabulary, device = self.policy.vocabulary, self.policy.device
        if len(set(excluded)) >= vocabulary:
            raise ValueError("all tokens are excluded: there is nothing to draw")
        return Rules(
            cap,
            frozenset(stops),
            torch.tensor(sorted(set(excluded)), device=device) if excluded else None,
            math.log(survival) if survival > 0 else -math.inf,
        )


def steps_of(one_token: OneTokenPass | None) -> AbstractContextManager[object]:
    """What rows grow in: without what torch keeps of tensors for a gradient, where no other code sees them."""
    return nullcontext() if one_token is None else torch.inference_mode()


def _cut(items: list[Item], size: int) -> Iterator[list[Item]]:
    for lo in range(0, len(items), size):
        yield items[lo : lo + size]


class DecodedBatch:
    """What the samples of a batch have drawn so far. The batch's rows are some of them; see `at`.

    Kept in lists: for a few rows a step they cost less than calls on tensors.
    """

    def __init__(self, rules: Rules, warm: Sequence[float]) -> None:
        self.rules, self.warm = rules, warm
        self.at = list(range(len(warm)))
        """The sample that each row is of."""
        self.finish: list[Finish | None] = [None] * len(warm)
        self.drawn: list[list[tuple[int, float, float]]] = [[] for _ in warm]
        """Of each sample's tokens: the token, its log-probability and the policy's own."""
        self.log_survival = [0.0] * len(warm)

    def add(self, drawn: Drawn) -> list[int]:
        """Takes a token for each row. Returns the rows that go on. Of a finished sample nothing counts."""
        rules, active = self.rules, []
        tokens, logps, policy_logps = drawn.token.tolist(), drawn.logp.tolist(), drawn.policy_logp.tolist()
        bounded = drawn.log_kept is not None and rules.log_survival > -math.inf
        kept = drawn.log_kept.tolist() if bounded and drawn.log_kept is not None else None
        for row, sample in enumerate(self.at):
            if self.finish[sample] is not None:
                continue
            self.drawn[sample].append((tokens[row], logps[row], policy_logps[row]))
            if kept is not None:
                self.log_survival[sample] += kept[row]
            if tokens[row] in rules.stops:
                self.finish[sample] = "stop"
            elif kept is not None and self.log_survival[sample] < rules.log_survival:
                self.finish[sample] = "survival"
            else:
                active.append(row)
        return active

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        self.at = [self.at[row] for row in rows]

    def samples(self) -> list[Sample]:
        """The samples: one that nothing else has ended has reached the cap."""
        out = []
        for drawn, finish, warmth in zip(self.drawn, self.finish, self.warm, strict=True):
            tokens, logps, policy_logps = zip(*drawn, strict=True)
            out.append(Sample(tokens, logps, policy_logps, finish or "cap", warmth))
        return out


def _decode(
    prompts: Prompts, prompt_R: Tensor, uniform_RT: Tensor, warm: Sequence[float], rules: Rules
) -> list[Sample]:
    """One sample for each entry of prompt_R, a prompt's place in `prompts`, at the temperatures `warm`."""
    device = prompt_R.device
    decoded = DecodedBatch(rules, warm)
    uniform_TB = uniform_RT.T.contiguous().to(device)
    temperatures = Temperatures.of(warm, device)
    rows, logits_BV = None, prompts.logits_PV[prompt_R]
    for t in range(rules.cap):
        drawn = draw(logits_BV, uniform_TB[t], temperatures, rules.excluded, rules.top_p)
        active = decoded.add(drawn)
        if not active or t + 1 == rules.cap:
            break
        rows = rows or prompts.rows(prompt_R)
        token_B = drawn.token
        if len(active) < ACTIVE_SHARE * len(token_B):
            index = torch.tensor(active, device=device)
            decoded.keep(active)
            rows.keep(index)
            temperatures.keep(index)
            token_B, uniform_TB = token_B[index], uniform_TB[:, index]
        logits_BV = rows.advance(token_B)
    return decoded.samples()
