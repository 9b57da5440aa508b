"""GRPO from its definitions, one sequence at a time through transformers alone: nothing of trimtab's but settings.

Made to be slow and plain: it judges what trimtab.methods.grpo does with the same prompts, completions and
rewards, step after step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from trimtab.methods.grpo_settings import GRPOSettings


@dataclass
class Call:
    """What the reward was asked in one training step, and its answer; k completions of each prompt, in order."""

    prompts: list[str]
    completion_ids: list[list[int]]
    rewards: list[float | None]


def distributions(model: Any, prompt: list[int], completion: list[int], temperature: float = 1.0) -> Tensor:
    """log π_T(·|x, y_<t) at each of the completion's steps: [T, V]"""
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def taken(logps_TV: Tensor, completion: list[int]) -> Tensor:
    return logps_TV[torch.arange(len(completion)), torch.tensor(completion)]


def advantages_of(rewards: Sequence[float | None], k: int) -> list[float | None]:
    """R_i less the mean of the group's other rewards; none where there is no reward, or no other."""
    out: list[float | None] = []
    for lo in range(0, len(rewards), k):
        group = list(rewards[lo : lo + k])
        for i, mine in enumerate(group):
            others = [r for j, r in enumerate(group) if j != i and r is not None]
            out.append(None if mine is None or not others else mine - sum(others) / len(others))
    return out


def train_by_hand(folder: Path, calls: Sequence[Call], settings: GRPOSettings, stops: Sequence[int]) -> Any:
    """The model after all the calls' steps. Objective leave_one_out, ratio token; constant learning rate."""
    torch.use_deterministic_algorithms(True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, eps=settings.adam_epsilon, weight_decay=0.0
    )
    for call in calls:
        turns = [[{"role": "user", "content": p}] for p in call.prompts]
        texts = [tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in turns]
        prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        rows = list(zip(prompts, call.completion_ids, strict=True))
        warm = settings.sampling.temperatures
        drawn_at = [warm[i % settings.samples % len(warm)] for i in range(len(rows))]
        tempered = settings.correction == "tempered"
        optimised_at = drawn_at if tempered else [1.0] * len(rows)
        with torch.no_grad():
            drew = reference if settings.rollouts == "fixed" else model
            sampler = [taken(distributions(drew, *r, t), r[1]) for r, t in zip(rows, drawn_at, strict=True)]
            old = [taken(distributions(drew, *r, t), r[1]) for r, t in zip(rows, optimised_at, strict=True)]
            ref = [distributions(reference, *r, t) for r, t in zip(rows, optimised_at, strict=True)]
        rewards = list(call.rewards)
        if settings.kl == "reward":
            rewards = [
                None if r is None else r - settings.kl_coefficient * float((o - taken(f, row[1])).sum())
                for r, o, f, row in zip(rewards, old, ref, rows, strict=True)
            ]
        advantages = advantages_of(rewards, settings.samples)
        cut = [settings.mask_cut and row[1][-1] not in stops for row in rows]
        kept = [i for i, a in enumerate(advantages) if a is not None and not cut[i]]
        for _ in range(settings.updates_per_batch):
            loss = torch.zeros(())
            for i in kept:
                now = distributions(model, *rows[i], optimised_at[i])
                terms = _terms(taken(now, rows[i][1]), old[i], sampler[i], advantages[i] or 0.0, settings)
                if settings.kl != "reward":
                    terms = terms + settings.kl_coefficient * _kl(now, ref[i], rows[i][1], settings)
                loss = loss + terms
            loss = loss / _total([rows[i][1] for i in kept], settings)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
    return model


def _terms(now: Tensor, old: Tensor, sampler: Tensor, advantage: float, settings: GRPOSettings) -> Tensor:
    """−Σ_t w_t min(ρ_t A, clip(ρ_t) A), or its mean over the tokens for "sequences"."""
    ratio = (now - old).exp()
    clipped = ratio.clamp(1 - (settings.clip_low or 1.0), 1 + (settings.clip_high or torch.inf))
    terms = torch.minimum(ratio * advantage, clipped * advantage)
    if settings.correction == "token":
        terms = terms * (old - sampler).exp().clamp(max=settings.weight_cap)
    return -(terms.mean() if settings.normalisation == "sequences" else terms.sum())


def _kl(now: Tensor, ref: Tensor, tokens: list[int], settings: GRPOSettings) -> Tensor:
    ours, theirs = taken(now, tokens), taken(ref, tokens)
    if settings.kl == "k2":
        return (ours - theirs).sum() ** 2 / 2
    if settings.kl == "k3":
        terms = (theirs - ours).exp() - (theirs - ours) - 1
        return terms.mean() if settings.normalisation == "sequences" else terms.sum()
    each = (now.exp() * (now - ref)).sum(-1)
    later = torch.stack([each[t + 1 :].sum() for t in range(len(tokens))]).detach()
    return each.sum() + (ours * later).sum()


def _total(completions: list[list[int]], settings: GRPOSettings) -> float:
    return {
        "sum": len(completions),
        "sequences": len(completions),
        "tokens": sum(map(len, completions)),
        "constant": len(completions) * settings.sampling.max_new_tokens,
    }[settings.normalisation]
