"""PPO from its definitions, one sequence at a time through transformers alone: nothing of trimtab's but settings.

As by_hand.py does for GRPO: slow and plain, to judge what trimtab.methods.ppo does with the same prompts,
completions and rewards, update after update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.by_hand import Call, distributions, taken
from trimtab.methods.ppo_settings import PPOSettings


@dataclass
class Episode:
    """One completion. advantages, returns: [T]."""

    prompt: list[int]
    tokens: list[int]
    temperature: float
    old: Tensor
    sampler: Tensor
    values: Tensor
    returns: Tensor
    advantages: Tensor


@dataclass
class Batch:
    """What was found on one batch, to be compared with what is logged."""

    explained: float
    value_loss: list[float]
    policy_loss: list[float]


def states(model: Any, prompt: list[int], tokens: list[int]) -> Tensor:
    """The hidden states that predict each token: [T, D]"""
    out = model(input_ids=torch.tensor([prompt + tokens]), output_hidden_states=True)
    return out.hidden_states[-1][0, len(prompt) - 1 : -1]


def estimates(
    score: float, log_ratios: list[float], values: list[float], settings: PPOSettings
) -> tuple[list[float], list[float]]:
    """Advantages and returns of one completion, by two loops over its tokens."""
    n = len(values)
    rewards = [-settings.kl_coefficient * r + (score if t == n - 1 else 0.0) for t, r in enumerate(log_ratios)]
    after = [*values[1:], 0.0]
    delta = [rewards[t] + settings.gamma * after[t] - values[t] for t in range(n)]
    decay = settings.gamma * settings.gae_lambda
    advantages = [sum(decay ** (u - t) * delta[u] for u in range(t, n)) for t in range(n)]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def train_by_hand(
    folder: Path, calls: Sequence[Call], settings: PPOSettings, stops: Sequence[int]
) -> tuple[Any, list[Batch]]:
    """The model after all the calls' updates; a constant learning rate."""
    torch.use_deterministic_algorithms(True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    head = torch.zeros(model.config.hidden_size, requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    trained = [*model.parameters(), head, bias]
    groups = [
        {"params": list(model.parameters()), "lr": settings.learning_rate},
        {"params": [head, bias], "lr": settings.value_learning_rate or 10 * settings.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, eps=settings.adam_epsilon, weight_decay=0.0)
    found = []
    for call in calls:
        episodes = _episodes(model, reference, tokenizer, head, bias, call, settings, stops)
        returns = torch.cat([e.returns for e in episodes])
        errors = returns - torch.cat([e.values for e in episodes])
        batch = Batch(float(1 - errors.var(correction=0) / returns.var(correction=0)), [], [])
        if settings.whiten:
            every = torch.cat([e.advantages for e in episodes])
            for e in episodes:
                e.advantages = (e.advantages - every.mean()) / every.std()
        total = sum(len(e.tokens) for e in episodes)
        for _ in range(settings.updates_per_batch):
            policy_loss, value_loss = torch.zeros(()), torch.zeros(())
            for e in episodes:
                policy_loss = policy_loss + _policy_terms(model, e, settings).sum() / total
                value_loss = value_loss + _value_terms(model, head, bias, e, settings).sum() / total
            (policy_loss + settings.value_coefficient * value_loss).backward()
            torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            batch.policy_loss.append(float(policy_loss))
            batch.value_loss.append(float(value_loss))
        found.append(batch)
    return model, found


def _episodes(
    model: Any,
    reference: Any,
    tokenizer: Any,
    head: Tensor,
    bias: Tensor,
    call: Call,
    settings: PPOSettings,
    stops: Sequence[int],
) -> list[Episode]:
    episodes = []
    warm = settings.sampling.temperatures
    for i, (text, tokens, score) in enumerate(zip(call.prompts, call.completion_ids, call.rewards, strict=True)):
        if score is None or (settings.mask_cut and tokens[-1] not in stops):
            continue
        turn = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        drawn_at = warm[i % settings.samples % len(warm)]
        optimised_at = drawn_at if settings.correction == "tempered" else 1.0
        with torch.no_grad():
            old = taken(distributions(model, prompt, tokens, optimised_at), tokens)
            sampler = taken(distributions(model, prompt, tokens, drawn_at), tokens)
            ref = taken(distributions(reference, prompt, tokens, optimised_at), tokens)
            values = states(model, prompt, tokens) @ head + bias
        advantages, returns = estimates(score, (old - ref).tolist(), values.tolist(), settings)
        given = (torch.tensor(returns), torch.tensor(advantages))
        episodes.append(Episode(prompt, tokens, optimised_at, old, sampler, values, *given))
    return episodes


def _policy_terms(model: Any, e: Episode, settings: PPOSettings) -> Tensor:
    """−w_t min(ρ_t A_t, clip(ρ_t) A_t)"""
    ratio = (taken(distributions(model, e.prompt, e.tokens, e.temperature), e.tokens) - e.old).exp()
    held = ratio if settings.clip is None else ratio.clamp(1 - settings.clip, 1 + settings.clip)
    terms = torch.minimum(ratio * e.advantages, held * e.advantages)
    if settings.correction == "token":
        terms = terms * (e.old - e.sampler).exp().clamp(max=settings.weight_cap)
    return -terms


def _value_terms(model: Any, head: Tensor, bias: Tensor, e: Episode, settings: PPOSettings) -> Tensor:
    values = states(model, e.prompt, e.tokens) @ head + bias
    errors = (values - e.returns) ** 2
    if settings.value_clip is not None:
        low, high = e.values - settings.value_clip, e.values + settings.value_clip
        errors = torch.maximum(errors, (values.clamp(low, high) - e.returns) ** 2)
    return errors / 2
