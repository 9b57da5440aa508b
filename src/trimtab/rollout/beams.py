"""Beam search on rows that grow (rows.py): token for token what transformers' generate finds.

Its rules are those of `early_stopping=False`, generate's default: a prompt is done once the best running beam, at
its present length, could not enter the finished ones, or at the cap. Each prompt is computed once, its beams are
rows that copy no more than each other's new columns, and prompts that are done leave the batch.

Dimension suffixes: _P prompts still searched, _N beams of a prompt, _C candidates of a prompt, _B rows (N for each
prompt), _T new tokens, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

from trimtab.models.policy import Policy
from trimtab.progress import Progress
from trimtab.rollout.rows import Prompts, Rows

UNLIKELY = -1.0e9
"""The score that transformers adds to beams that are not to be chosen."""
ACTIVE_SHARE = 0.75
"""Prompts that are done leave once less than this share of the prompts is searched."""


@dataclass(frozen=True)
class BeamRules:
    """num_beams: running and finished ones of a prompt. A score is divided by new tokens ** length_penalty.
    stops: tokens that finish a beam."""

    num_beams: int
    length_penalty: float
    max_new_tokens: int
    stops: Sequence[int]


@dataclass
class Beams:
    """Of each prompt N, best first. scores: summed log-probabilities, of finished ones divided by the penalty,
    [P, N]; tokens: their new tokens, [P, N, T]; lengths: how many of these count, 0 for no beam, [P, N]."""

    scores: Tensor
    tokens: Tensor
    lengths: Tensor

    @classmethod
    def empty(cls, prompts: int, rules: BeamRules, device: torch.device) -> Beams:
        """No beams at all."""
        shape = prompts, rules.num_beams
        length_PN = torch.zeros(shape, dtype=torch.long, device=device)
        token_PNT = torch.zeros(*shape, rules.max_new_tokens, dtype=torch.long, device=device)
        return cls(torch.full(shape, UNLIKELY, device=device), token_PNT, length_PN)

    def keep(self, index_P: Tensor) -> Beams:
        """Of these prompts only."""
        return Beams(self.scores[index_P], self.tokens[index_P], self.lengths[index_P])

    def merged(self, others: Beams) -> Beams:
        """The best N of both."""
        both = [torch.cat(pair, dim=1) for pair in zip(vars(self).values(), vars(others).values(), strict=True)]
        score_PN, place_PN = both[0].topk(self.scores.shape[1])
        return Beams(score_PN, _taken(both[1], place_PN), both[2].gather(1, place_PN))

    def best(self) -> list[list[int]]:
        """The tokens of each prompt's best beam."""
        lengths = self.lengths[:, 0].tolist()
        return [row[:length] for row, length in zip(self.tokens[:, 0].tolist(), lengths, strict=True)]


def _taken(token_PNT: Tensor, place_PN: Tensor) -> Tensor:
    """The beams at these places: [P, N', T]."""
    return token_PNT.gather(1, place_PN[..., None].expand(-1, -1, token_PNT.shape[2]))


class Search:
    """The search for the best beams of some prompts. at_P: which of them are still in it."""

    def __init__(self, prompts: Prompts, rules: BeamRules) -> None:
        self.rules = rules
        count, self.vocabulary = prompts.logits_PV.shape
        device = prompts.logits_PV.device
        self.at_P = torch.arange(count, device=device)
        self.stop_V = torch.zeros(self.vocabulary, dtype=torch.bool, device=device)
        self.stop_V[torch.tensor(list(rules.stops), dtype=torch.long, device=device)] = True
        self.finished, self.running = (Beams.empty(count, rules, device) for _ in range(2))
        self.running.scores[:, 0] = 0.0  # all start alike: the first tokens are candidates once
        self.open_P = torch.ones(count, dtype=torch.bool, device=device)

    def take(self, t: int, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the t-th tokens, counted from 1. Returns each running beam's last token and, as places of rows, the
        beams that they continue: [B] both."""
        rules, beams = self.rules, self.rules.num_beams
        logp_PNV = torch.log_softmax(logits_BV.float(), dim=-1).view(-1, beams, self.vocabulary)
        logp_PNV = logp_PNV + self.running.scores[..., None]
        # As many that stop as there can be, and still N that go on.
        score_PC, flat_PC = logp_PNV.flatten(1).topk(max(2, 1 + len(rules.stops)) * beams)
        parent_PC, token_PC = flat_PC // self.vocabulary, flat_PC % self.vocabulary
        end_PC = self.stop_V[token_PC] if t < rules.max_new_tokens else torch.ones_like(token_PC, dtype=torch.bool)
        if end_PC[:, :beams].any():
            self._finish(t, score_PC, parent_PC, token_PC, end_PC)
        score_PN, place_PN = (score_PC + end_PC * UNLIKELY).topk(beams)
        parent_PN, token_PN = parent_PC.gather(1, place_PN), token_PC.gather(1, place_PN)
        self.running.scores, self.running.tokens = score_PN, self._grown(t, parent_PN, token_PN)
        worst_P1 = self.finished.scores.amin(1, keepdim=True)
        worst_PN = worst_P1.masked_fill(self.finished.lengths == 0, UNLIKELY)
        self.open_P &= (score_PN[:, :1] / t**rules.length_penalty > worst_PN).any(1) & ~end_PC.all(1)
        first_P1 = torch.arange(len(parent_PN), device=parent_PN.device)[:, None] * beams
        return token_PN.flatten(), (parent_PN + first_P1).flatten()

    def _grown(self, t: int, parent_PN: Tensor, token_PN: Tensor) -> Tensor:
        token_PNT = _taken(self.running.tokens, parent_PN)
        token_PNT[:, :, t - 1] = token_PN
        return token_PNT

    def _finish(self, t: int, score_PC: Tensor, parent_PC: Tensor, token_PC: Tensor, end_PC: Tensor) -> None:
        """Of the candidates only the best N can finish, and only while their prompt is open."""
        score_PN, parent_PN, token_PN, end_PN = (
            x[:, : self.rules.num_beams] for x in (score_PC, parent_PC, token_PC, end_PC)
        )
        end_PN = end_PN & self.open_P[:, None]
        score_PN = score_PN / t**self.rules.length_penalty + ~end_PN * UNLIKELY
        ended = Beams(score_PN, self._grown(t, parent_PN, token_PN), end_PN * t)
        self.finished = self.finished.merged(ended)

    def keep(self, index_P: Tensor) -> None:
        """Only these prompts go on."""
        self.finished, self.running = self.finished.keep(index_P), self.running.keep(index_P)
        self.at_P, self.open_P = self.at_P[index_P], self.open_P[index_P]


def search_beams(prompts: Prompts, rules: BeamRules, progress: Progress) -> list[list[int]]:
    """The best beam of each prompt, the token that stopped it included. progress: counts prompts, and a token for
    each step of each."""
    search, beams = Search(prompts, rules), rules.num_beams
    searched = len(search.at_P)
    out: list[list[int]] = [[] for _ in search.at_P]
    rows: Rows | None = None
    logits_BV = prompts.logits_PV.repeat_interleave(beams, 0)
    for t in range(1, rules.max_new_tokens + 1):
        token_B, parent_B = search.take(t, logits_BV)
        active = int(search.open_P.sum())
        progress.advance(searched - active, tokens=searched)
        searched = active
        if not active:
            break
        if rows is None:  # beams of a prompt are still alike
            rows = prompts.rows(search.at_P.repeat_interleave(beams))
        else:
            rows.reorder(parent_B)
        if active < ACTIVE_SHARE * len(search.at_P):
            for place, row in zip(search.at_P.tolist(), search.finished.best(), strict=True):
                out[place] = row
            index_P = search.open_P.nonzero()[:, 0]
            index_B = (index_P[:, None] * beams + torch.arange(beams, device=index_P.device)).flatten()
            search.keep(index_P)
            rows.keep(index_B)
            token_B = token_B[index_B]
        logits_BV = rows.advance(token_B)
    for place, row in zip(search.at_P.tolist(), search.finished.best(), strict=True):
        out[place] = row
    return out


def generate_beams(policy: Policy, prompts: Sequence[Sequence[int]], rules: BeamRules) -> list[list[int]]:
    """The same by model.generate, for families whose caches are not keys and values of every token."""
    model, longest = policy.model, max(map(len, prompts))
    stops = list(rules.stops)
    pad = stops[0] if stops else 0
    ids_PT = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in prompts], device=model.device)
    mask_PT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    ends = {"eos_token_id": stops or None, "pad_token_id": pad}
    own = model.generation_config
    # transformers fills what is not given from the model's own config: a repetition penalty that one model
    # ships with would make its decoding another.
    model.generation_config = transformers.GenerationConfig(**ends)
    try:
        config = transformers.GenerationConfig(
            do_sample=False,
            num_beams=rules.num_beams,
            length_penalty=rules.length_penalty,
            max_new_tokens=rules.max_new_tokens,
            **ends,
        )
        with policy.inputs.generating(longest):
            sequences = model.generate(input_ids=ids_PT, attention_mask=mask_PT, generation_config=config)
    finally:
        model.generation_config = own
    out = []
    for row in sequences[:, longest:].tolist():
        end = next((i for i, token in enumerate(row) if token in stops), len(row) - 1)
        out.append(row[: end + 1])
    return out
