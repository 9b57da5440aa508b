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
from trimtab.rollout.drawing import Drawn, Temperatures, draw
from trimtab.rollout.logps import evaluating
from trimtab.rollout.rows import Prompts, one_token_pass, serves_cache
from trimtab.rollout.sampler import Finish, Sample, Sampler, Sampling, check_prompts, nan_logits_error
from trimtab.rollout.watch import Watch, watching

Item = TypeVar("Item")
ACTIVE_SHARE = 0.75
"""Rows of finished samples are dropped once less than this share of the rows is active."""
BEAM_ROWS = 128
"""Beams of a batch in beam search."""


@dataclass(frozen=True)
class Rules:
    """What may be drawn and what ends a sample. stops: tokens that do; excluded: ids [n] or None. top_p: below 1,
    only a nucleus is drawn from; top_k: above 0, only so many of the likeliest."""

    cap: int
    stops: frozenset[int]
    excluded: Tensor | None
    log_survival: float
    top_p: float = 1.0
    top_k: int = 0


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
        top_k: int = 0,
        targets: Sequence[int] | None = None,
        watch: Watch | None = None,
    ) -> list[list[Sample]]:
        """See Sampler.sample. A sample's draws depend on the seed, its prompt's place, its own place, k and
        max_new_tokens. Prompts are decoded by length, batch_size samples at a time.

        top_p, top_k: below 1, only the nucleus is drawn from, above 0 only so many of the likeliest tokens, for
        evaluation: the samples' log-probabilities are those of the whole distribution. targets: what each prompt's
        rows count down from, for a policy that does. watch: what is told how far it is; None: it is shown.

        Raises TrimtabError where a prompt is empty or too long, and where the policy's logits are NaN.
        """
        if k < 1:
            raise ValueError(f"k={k}: a prompt needs a sample")
        cap, size = sampling.max_new_tokens, sampling.batch_size
        check_prompts(prompts, cap, self._room)
        rules = replace(self._rules(cap, stops, excluded, survival), top_p=top_p, top_k=top_k)
        generator = torch.Generator().manual_seed(seed)
        shape = (1 + max(places or range(len(prompts)), default=-1), k, cap)
        uniform_PKT = torch.rand(shape, dtype=torch.float64, generator=generator)
        if places is not None:
            uniform_PKT = uniform_PKT[list(places)]
        temperatures = [sampling.temperatures[i % len(sampling.temperatures)] for i in range(k)]
        out: list[list[Sample]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        with evaluating(self.policy), watching(watch, len(prompts) * k, cap) as watched:
            one_token = one_token_pass(self.policy)
            for part in _cut(order, max(1, size // k)):
                some = targets and [targets[i] for i in part]
                computed = self._computed([prompts[i] for i in part], some, one_token)
                for pairs in _cut([(p, i) for p in range(len(part)) for i in range(k)], size):
                    chosen = [part[p] for p, _ in pairs], [i for _, i in pairs]
                    warm = [temperatures[i] for i in chosen[1]]
                    row_R = torch.tensor([p for p, _ in pairs], device=self.policy.device)
                    with steps_of(one_token):
                        samples = _decode(computed, row_R, uniform_PKT[chosen], warm, rules, watched, chosen[0])
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
        watch: Watch | None = None,
    ) -> list[list[int]]:
        """The best beam of each prompt, as transformers' generate finds it, its stop token included."""
        check_prompts(prompts, max_new_tokens, self._room)
        rules = BeamRules(num_beams, length_penalty, max_new_tokens, stops)
        out: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        cached = serves_cache(self.policy)
        with evaluating(self.policy), watching(watch, len(prompts), max_new_tokens) as watched:
            one_token = one_token_pass(self.policy)
            for places in _cut(order, max(1, BEAM_ROWS // num_beams)):
                some = [prompts[i] for i in places]
                if cached:
                    wanted = targets and [targets[i] for i in places]
                    computed = self._computed(some, wanted, one_token)
                    with steps_of(one_token):
                        rows = search_beams(computed, rules, watched.progress)
                else:
                    rows = generate_beams(self.policy, some, rules)
                    watched.progress.advance(len(rows), tokens=sum(map(len, rows)))
                for place, row in zip(places, rows, strict=True):
                    out[place] = row
                    watched.whole(place, row)
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
        self.ended: list[int] = []
        """The samples that the last token ended."""

    def add(self, drawn: Drawn) -> list[int]:
        """Takes a token for each row. Returns the rows that go on. Of a finished sample nothing counts."""
        rules, active = self.rules, []
        self.ended = []
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
                self.ended.append(sample)
            elif kept is not None and self.log_survival[sample] < rules.log_survival:
                self.finish[sample] = "survival"
                self.ended.append(sample)
            else:
                active.append(row)
        return active

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        self.at = [self.at[row] for row in rows]

    def tell(self, watch: Watch, places: Sequence[int], active: int, last: bool) -> None:
        """Tells of the tokens just taken, of which so many end nothing, and of samples that are whole. last: no
        more will be drawn."""
        ended = [i for i, finish in enumerate(self.finish) if finish is None] if last else []
        watch.progress.advance(len(self.ended) + len(ended), tokens=len(self.ended) + active)
        for sample in (*self.ended, *ended):
            watch.whole(places[sample], [token for token, _, _ in self.drawn[sample]])

    def samples(self) -> list[Sample]:
        """The samples: one that nothing else has ended has reached the cap."""
        out = []
        for drawn, finish, warmth in zip(self.drawn, self.finish, self.warm, strict=True):
            tokens, logps, policy_logps = zip(*drawn, strict=True)
            out.append(Sample(tokens, logps, policy_logps, finish or "cap", warmth))
        return out


def _decode(
    prompts: Prompts,
    prompt_R: Tensor,
    uniform_RT: Tensor,
    warm: Sequence[float],
    rules: Rules,
    watch: Watch,
    places: Sequence[int],
) -> list[Sample]:
    """One sample for each entry of prompt_R, a prompt's place in `prompts`, at the temperatures `warm`. places: of
    each one's prompt, as the watch knows them."""
    device = prompt_R.device
    decoded = DecodedBatch(rules, warm)
    uniform_TB = uniform_RT.T.contiguous()
    if device.type != "mps":  # it has no float64
        uniform_TB = uniform_TB.to(device)
    temperatures = Temperatures.of(warm, device)
    rows, logits_BV = None, prompts.logits_PV[prompt_R]
    for t in range(rules.cap):
        drawn = draw(logits_BV, uniform_TB[t], temperatures, rules.excluded, rules.top_p, rules.top_k)
        active = decoded.add(drawn)
        decoded.tell(watch, places, len(active), last=t + 1 == rules.cap)
        if not active or t + 1 == rules.cap:
            break
        rows = rows or prompts.rows(prompt_R)
        token_B = drawn.token
        if len(active) < ACTIVE_SHARE * len(token_B):
            index = torch.tensor(active, device=device)
            decoded.keep(active)
            rows.keep(index)
            temperatures.keep(index)
            token_B, uniform_TB = token_B[index], uniform_TB[:, index.to(uniform_TB.device)]
        logits_BV = rows.advance(token_B)
    return decoded.samples()
