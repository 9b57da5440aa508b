"""TRL's RLOOTrainer and GRPOTrainer and ours on the same completions, rewards and weights: advantages, loss,
clipped shares and the gradient of every weight. Both compute log-probabilities, KL and baselines by themselves."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.families import single_logps
from training.toy import write_model
from trimtab.data.groups import CompletionGroup, cut_into_passes, pack
from trimtab.data.records import Record
from trimtab.methods.grpo import GRPO
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.methods.rollouts import Scoring
from trimtab.models.policy import Policy
from trimtab.rewards.base import Scored
from trimtab.rollout.sampler import Sample, Sampling
from trimtab.training.stage_method import TrainingContext

trl = pytest.importorskip("trl")
PROMPTS, SAMPLES, CAP = 3, 4, 12
Weights = dict[str, Tensor]


@dataclass
class World:
    """Three prompts with four completions each, and the weights of three policies."""

    folder: Path
    groups: list[CompletionGroup]
    rewards: list[float | None]
    reference: Weights
    old: Weights
    new: Weights


@dataclass
class Found:
    """What one of the two implementations makes of a world."""

    advantages: list[float]
    loss: float
    clipped: tuple[float, float]
    grads: Weights


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = write_model(tmp_path_factory.mktemp("parity") / "model")
    rng = random.Random(1)

    def some(n: int) -> tuple[int, ...]:
        return tuple(rng.sample(range(5, 300), n))

    groups = [
        CompletionGroup(some(2 + 2 * i), tuple(some(1 + (3 * i + 4 * k) % 9) for k in range(SAMPLES)), i)
        for i in range(PROMPTS)
    ]
    rewards: list[float | None] = [rng.uniform(-2, 2) for _ in range(PROMPTS * SAMPLES)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)

    def moved(weights: Weights, by: float) -> Weights:
        return {n: w + by * torch.randn(w.shape, generator=generator) for n, w in weights.items()}

    reference = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    old = moved(reference, 0.02)
    # Off the old policy by enough that ratios leave 1 ± 0.2 on both sides.
    return World(folder, groups, rewards, reference, old, moved(old, 0.02))


def put(model: Any, weights: Weights) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
            weight.grad = None


def grads_of(model: Any) -> Weights:
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def trainer(name: str, world: World, out: Path) -> Any:
    from datasets import Dataset

    rows = [{"prompt": f"p{i}"} for i in range(PROMPTS)]
    config = {"RLOOTrainer": trl.RLOOConfig, "GRPOTrainer": trl.GRPOConfig}[name](
        output_dir=str(out),
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=CAP,
        beta=0.3,  # so that a reference is loaded
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        epsilon=0.2,
    )

    def table(completions: list[str], **columns: Any) -> list[float | None]:
        return world.rewards

    return getattr(trl, name)(
        model=str(world.folder),
        reward_funcs=table,
        args=config,
        processing_class=AutoTokenizer.from_pretrained(world.folder),
        train_dataset=Dataset.from_list(rows),
    )


@pytest.fixture(scope="module")
def rloo(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = trainer("RLOOTrainer", world, tmp_path_factory.mktemp("rloo"))
    made._generate = lambda prompts: (*tokens_of(world), [""] * len(prompts))
    return made


@pytest.fixture(scope="module")
def grpo(world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = trainer("GRPOTrainer", world, tmp_path_factory.mktemp("grpo"))
    made._generate = lambda prompts: (*tokens_of(world), None, [""] * len(prompts), None, {}, None, None)
    made.args.use_bias_correction_kl = False
    return made


def tokens_of(world: World) -> tuple[list[list[int]], list[list[int]]]:
    rows = [(g.prompt, c) for g in world.groups for c in g.completions]
    return [list(p) for p, _ in rows], [list(c) for _, c in rows]


def theirs(made: Any, world: World, new: Weights, **chosen: Any) -> Found:
    """chosen: attributes that the trainer's loss reads."""
    for name, value in chosen.items():
        setattr(made, name, value)
    made.current_gradient_accumulation_steps = 1
    made._metrics["train"].clear()
    put(made.model, world.old)
    made.model.train()
    inputs = made._generate_and_score_completions([{"prompt": "p"}] * (PROMPTS * SAMPLES))
    put(made.model, new)
    loss = made._compute_loss(made.model, inputs)
    loss.backward()
    metrics = made._metrics["train"]
    clipped = (metrics["clip_ratio/low_mean"][0], metrics["clip_ratio/high_mean"][0])
    return Found(inputs["advantages"].tolist(), float(loss.detach()), clipped, grads_of(made.model))


def ours(world: World, new: Weights, folder: Path, **settings: Any) -> Found:
    """Through the method itself; only what it would sample is given. On policy the ratio is not looked at."""
    updates = 1 if new is world.old else 2
    model = AutoModelForCausalLM.from_pretrained(world.folder, dtype=torch.float32)
    policy = Policy(model)
    chosen = GRPOSettings(
        samples=SAMPLES,
        sampling=Sampling(max_new_tokens=CAP),
        updates_per_batch=updates,
        token_budget=25,
        **settings,
    )
    records = [Record(f"p{i}", ("",)) for i in range(PROMPTS)]
    given: Any = SimpleNamespace(take_metrics=dict, wants_scale=False)  # a reward that is never asked to score
    prepared = TrainingContext(
        policy, world.groups, [], chosen, Accelerator(cpu=True), folder, None, train_records=records, reward=given
    )
    method = GRPO(chosen, prepared)  # the policy has the reference's weights now
    put(model, world.old)
    plain = AutoModelForCausalLM.from_pretrained(world.folder, dtype=torch.float32).eval()
    put(plain, world.old)
    scorings, place = [], 0
    for group in world.groups:
        samples = []
        for tokens in group.completions:
            with torch.no_grad():
                logps = single_logps(plain, [CompletionGroup(group.prompt, (tokens,))]).tolist()
            samples.append(Sample(tokens, tuple(logps), tuple(logps), "stop", 1.0))
        scored = [Scored(r) for r in world.rewards[place : place + SAMPLES]]
        scorings.append(Scoring(group, samples, [""] * SAMPLES, scored))
        place += SAMPLES
    method.collector.score = lambda *arguments, **named: scorings  # type: ignore[method-assign]
    step = method.prepare(world.groups, 0)
    put(model, new)
    losses, sums = [], {"clip_ratio/low_mean": 0.0, "clip_ratio/high_mean": 0.0}
    terms = 0.0
    for members in cut_into_passes(step.groups, chosen.token_budget):
        loss, metrics = step.loss(policy, pack(members), step.total)
        loss.backward()
        losses.append(float(loss.detach()))
        terms += metrics.get("ratio", (0.0, 1.0))[1]
        for name in sums:
            sums[name] += metrics.get(name, (0.0, 1.0))[0]
    assert len(losses) > 1, "several passes"
    low, high = (value / terms for value in sums.values())
    advantages = [a for group in method.batch.groups for a in group.columns["advantages"].tolist()]
    return Found(advantages, sum(losses), (low, high), grads_of(model))


def same(mine: Found, other: Found) -> None:
    assert mine.advantages == pytest.approx(other.advantages, rel=1e-5, abs=1e-5)
    assert mine.loss == pytest.approx(other.loss, rel=1e-5, abs=1e-5)
    assert mine.clipped == pytest.approx(other.clipped, abs=1e-6)
    for name, grad in other.grads.items():
        # The key biases' true gradient is 0: nothing but rounding.
        noise = 1e-5 if name.endswith("k_proj.bias") else 1e-7
        assert (mine.grads[name] - grad).norm() <= 1e-5 * grad.norm() + noise, name
    assert max(float(g.norm()) for g in other.grads.values()) > 1e-2, "there is a gradient to compare"


@pytest.mark.parametrize("beta", [0.0, 0.3], ids=["no KL", "KL in the reward"])
@pytest.mark.parametrize("clips", [False, True], ids=["on policy", "reused batch"])
def test_leave_one_out_equals_trls_rloo(world: World, rloo: Any, tmp_path: Path, beta: float, clips: bool) -> None:
    """TRL: A_i = R_i − β Σ_t (log π_old − log π_ref) less the mean of the others', loss = mean over completions
    of −min(ρA, clip(ρ, 0.8, 1.2)A), ρ of the whole sequence: our ratio "sequence", normalisation "sum"."""
    new = world.new if clips else world.old
    other = theirs(rloo, world, new, beta=beta)
    mine = ours(world, new, tmp_path, ratio="sequence", kl="reward", kl_coefficient=beta)
    assert (min(other.clipped) > 0) == clips, "both sides are clipped, or none"
    same(mine, other)


LOSS_TYPES = [
    ("grpo", "group", "group_normalised", "sequences"),
    ("bnpo", "group", "group_normalised", "tokens"),
    ("dapo", "group", "group_normalised", "tokens"),
    ("dr_grpo", "none", "mean_centred", "constant"),
]


@pytest.mark.parametrize("clips", [False, True], ids=["on policy", "reused batch"])
@pytest.mark.parametrize("beta", [0.0, 0.3], ids=["no KL", "k3"])
@pytest.mark.parametrize(("loss_type", "scale", "objective", "normalisation"), LOSS_TYPES)
def test_group_losses_equal_trls_grpo(
    world: World,
    grpo: Any,
    tmp_path: Path,
    loss_type: str,
    scale: str,
    objective: str,
    normalisation: str,
    beta: float,
    clips: bool,
) -> None:
    """What TRL 1.16 divides the clipped terms and β · k3 by, with one process and no accumulation:

    grpo: each completion's own tokens, then completions ("sequences"). bnpo: tokens of the pass, dapo: of
    the whole generation batch; the same here, where both are the step ("tokens"). dr_grpo: completions ×
    max_completion_length ("constant"). Its k3 is without use_bias_correction_kl, which multiplies it by the
    token's ratio and which we do not have.
    """
    new = world.new if clips else world.old
    chosen = {"loss_type": loss_type, "scale_rewards": scale, "beta": beta, "num_iterations": 1 + clips}
    other = theirs(grpo, world, new, **chosen)
    mine = ours(
        world, new, tmp_path, objective=objective, normalisation=normalisation, kl="k3", kl_coefficient=beta
    )
    assert (min(other.clipped) > 0) == clips
    same(mine, other)


def test_a_missing_reward_leaves_both_baselines(world: World, rloo: Any, tmp_path: Path) -> None:
    """The second prompt lacks one reward, the third all but one, and so has no baseline at all.

    TRL gives these five the advantage 0 and still divides by all twelve completions; ours leaves them out and
    divides by the seven that count. So the other advantages agree, and 7 · our loss is 12 · theirs.
    """
    lacking = [None if i in (4, 8, 9, 10) else r for i, r in enumerate(world.rewards)]
    changed = replace(world, rewards=lacking)
    kept, world.rewards = world.rewards, lacking  # where TRL's reward function reads them
    try:
        other = theirs(rloo, world, world.new, beta=0.3)
    finally:
        world.rewards = kept
    mine = ours(changed, world.new, tmp_path, ratio="sequence", kl="reward", kl_coefficient=0.3)
    assert [i for i, a in enumerate(other.advantages) if a == 0] == [4, 8, 9, 10, 11]
    assert mine.advantages == pytest.approx([a for a in other.advantages if a], rel=1e-5, abs=1e-5)
    assert 7 * mine.loss == pytest.approx(12 * other.loss, rel=1e-5)
    for name, grad in other.grads.items():
        if not name.endswith("k_proj.bias"):
            assert (7 * mine.grads[name] - 12 * grad).norm() <= 1e-4 * grad.norm() + 1e-7, name
