"""SFT with a length penalty: what each estimator does to a model, and how its gradient joins SFT's.

That it survives a kill: test_grpo_resume.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.families import VOCABULARY, make, single_logps
from training.grpo_runs import STOPS, weights_of
from training.toy import plain_accelerator, write_plain_pairs
from trimtab.data.groups import CompletionGroup
from trimtab.data.splits import DataSettings
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.rollout.sampler import Sample, Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.training.loop import Loop
from trimtab.training.metrics import read_metrics
from trimtab.training.schedule import data_order
from trimtab.training.stage import run_stage
from trimtab.training.stage_method import TrainingContext

CAP = 16

# ---- as a stage


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chosen completions of 2 to 6 words."""
    return write_plain_pairs(tmp_path_factory.mktemp("short") / "pairs.jsonl", 40)


@dataclass
class Ran:
    folder: Path
    rows: list[dict[str, Any]]
    random: Tensor
    """The state of torch's generator when all was done."""


def sft(model: Path, pairs: Path, folder: Path, penalty: dict[str, Any] | None, **given: Any) -> Ran:
    chosen: dict[str, Any] = {
        "learning_rate": 1e-3, "schedule": "constant", "warmup_steps": 0, "batch_size": 8, "max_steps": 4,
        "logging_interval": 1, "precision": "float32", "token_budget": 200,
    }  # fmt: skip
    if penalty is not None:
        chosen["length_penalty"] = {"interval": 1, "weight": 1.0, "max_new_tokens": CAP} | penalty
    data = DataSettings(train=str(pairs), max_length=100)
    best = run_stage("sft", SFT, SFTSettings(**chosen | given), data, str(model), folder)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    return Ran(best, rows, torch.get_rng_state())


def test_the_literal_penalty_changes_the_printed_loss_and_no_weight(
    stopping_model: Path, pairs: Path, tmp_path: Path
) -> None:
    """What the course report does: the number is added, and a sample's length has no gradient. Neither does
    sampling disturb the rest: not a weight, not another metric, not the generator that torch shares."""
    plain = sft(stopping_model, pairs, tmp_path / "plain", None)
    literal = sft(stopping_model, pairs, tmp_path / "literal", {"estimator": "literal"})
    without, other = weights_of(plain.folder), weights_of(literal.folder)
    assert all(torch.equal(weight, other[name]) for name, weight in without.items())
    assert torch.equal(plain.random, literal.random)
    for mine, theirs in zip(literal.rows, plain.rows, strict=True):
        assert mine["length_penalty"] > 0, "a penalty is printed"
        assert mine["length_penalty/grad_norm"] == 0
        assert mine["loss"] == pytest.approx(theirs["loss"] + mine["length_penalty"])
        kept = {k: v for k, v in theirs.items() if k not in ("loss", "seconds")}
        assert {k: mine[k] for k in kept} == kept


@pytest.fixture(scope="module")
def shortened(
    stopping_model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Ran, float]]:
    """Each estimator's run, and the mean length of what its model then samples.

    The loop's clip leaves nearly nothing of SFT (gradients of norm 1e-3, and Adam's epsilon of 1 keeps them
    small), so that what shortens is the penalty: the chosen completions, which are short, do not.
    """
    root, found = tmp_path_factory.mktemp("shortened"), {}
    given = {"max_steps": 8, "learning_rate": 1.0, "adam_epsilon": 1.0, "max_grad_norm": 1e-3}
    for estimator in ("literal", "stop_hazard", "score_function"):
        penalty = {"estimator": estimator, "samples": 8, "max_grad_norm": 5.0}
        ran = sft(stopping_model, pairs, root / estimator, penalty, **given)
        sampler = TransformersSampler(load_policy(str(ran.folder)))
        prompts = [[1, 50 + i, 90 + i] for i in range(50)]
        samples = sampler.sample(prompts, 8, Sampling(max_new_tokens=CAP), seed=1, stops=STOPS)
        lengths = [len(one.tokens) for several in samples for one in several]
        found[estimator] = ran, sum(lengths) / len(lengths)
    return found


@pytest.mark.parametrize("estimator", ["stop_hazard", "score_function"])
def test_the_estimators_shorten_what_is_sampled(shortened: dict[str, tuple[Ran, float]], estimator: str) -> None:
    """400 samples, of standard deviation 5 at most: a mean's standard error is 0.25."""
    (_, usual), (ran, length) = shortened["literal"], shortened[estimator]
    assert length < usual - 1.5
    values = [row["length_penalty/value"] for row in ran.rows]
    assert sum(values[-2:]) < 0.5 * sum(values[:2])
    for row in ran.rows[:3]:  # where all samples are short enough, nothing is left to pull at
        assert row["length_penalty/grad_norm"] > 0
        assert row["grad_norm"] > 0


def test_the_penalty_comes_every_interval_steps(stopping_model: Path, pairs: Path, tmp_path: Path) -> None:
    ran = sft(stopping_model, pairs, tmp_path, {"interval": 3, "estimator": "stop_hazard"}, max_steps=7)
    assert [row["step"] for row in ran.rows if "length_penalty" in row] == [1, 4, 7]


def test_one_sample_has_no_baseline() -> None:
    with pytest.raises(ValidationError, match="at least two samples"):
        SFTSettings(length_penalty={"estimator": "score_function", "samples": 1})  # type: ignore[arg-type]


# ---- one step, and its gradient

ENDS = list(range(2, 10))
GROUPS = [
    CompletionGroup(tuple(range(10 + i, 13 + 2 * i)), (tuple(range(20 + i, 22 + 2 * i)),), i, (False,))
    for i in range(6)
]
"""Chosen completions of 2, 3, … 7 tokens: 4.5 in the mean."""


@dataclass
class Step:
    """grads: what the optimizer is given, both shares after their clips."""

    grads: dict[str, Tensor]
    metrics: dict[str, float]
    method: SFT
    drawn: list[list[Sample]]


def step_of(folder: Path, penalty: dict[str, Any] | None, groups: Any = GROUPS, **given: Any) -> Step:
    """The first optimizer step on the groups; clips nothing unless told to."""
    model = make("qwen2")
    model.generation_config.eos_token_id = ENDS
    settings = SFTSettings(
        learning_rate=1e-3, batch_size=len(groups), token_budget=40, max_steps=1,
        length_penalty=None if penalty is None else {  # type: ignore[arg-type]
            "weight": 0.25, "max_new_tokens": CAP, "max_grad_norm": 1e9, "samples": 2,
        } | penalty,
        **{"max_grad_norm": 1e9} | given,
    )  # fmt: skip
    policy, chat = Policy(model), SimpleNamespace(stop_tokens=[2], end_of_turn=2)
    prepared = TrainingContext(policy, list(groups), [], settings, plain_accelerator(), folder, chat)
    method = SFT(settings, prepared)
    drawn: list[list[Sample]] = []
    if method.penalty is not None:
        sampler, sample = method.penalty.sampler, method.penalty.sampler.sample

        def keeping(*arguments: Any, **named: Any) -> list[list[Sample]]:
            samples = sample(*arguments, **named)
            drawn.extend(samples)
            return samples

        sampler.sample = keeping  # type: ignore[method-assign]
    loop = Loop(policy, method, groups, settings, folder, prepared.accelerator, lambda path: None)
    found: dict[str, Tensor] = {}

    def keep() -> None:
        found.update({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})

    loop.optimizer.step = keep
    metrics, _ = loop.train_step(0)
    return Step(found, metrics, method, drawn)


def pairs_of(step: Step, groups: Any = GROUPS) -> list[tuple[CompletionGroup, list[Any]]]:
    """Each prompt with its samples, in the order in which the step took them."""
    taken = [groups[i] for i in data_order(len(groups), 42, 0)]
    whole = [group for group in taken if not any(group.truncated)]
    return list(zip(whole, step.drawn, strict=True))


def share(with_penalty: Step, without: Step) -> dict[str, Tensor]:
    return {name: grad - without.grads[name] for name, grad in with_penalty.grads.items()}


def norm(grads: dict[str, Tensor]) -> float:
    return float(torch.stack([g.double().norm() for g in grads.values()]).norm())


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], factor: float = 1.0) -> None:
    apart = {name: grad - factor * wanted[name] for name, grad in found.items()}
    assert norm(apart) <= 1e-3 * norm(found)


@pytest.mark.parametrize("estimator", ["stop_hazard", "score_function"])
def test_the_two_gradients_are_clipped_apart(estimator: str, tmp_path: Path) -> None:
    """To 0.01 each in turn: its share is then 0.01 long in its own direction, and the other's is whole. The norms
    that are logged are those before."""
    plain = step_of(tmp_path, None)
    whole = step_of(tmp_path, {"estimator": estimator})
    penalty = share(whole, plain)
    assert min(norm(penalty), norm(plain.grads)) > 0.5
    for step in (whole, small := step_of(tmp_path, {"estimator": estimator, "max_grad_norm": 0.01})):
        assert step.metrics["grad_norm"] == pytest.approx(plain.metrics["grad_norm"], rel=1e-5)
        assert step.metrics["length_penalty/grad_norm"] == pytest.approx(norm(penalty), rel=1e-4)
    assert norm(share(small, plain)) == pytest.approx(0.01, rel=1e-3)
    other = step_of(tmp_path, {"estimator": estimator}, max_grad_norm=0.01)
    same({n: g - penalty[n] for n, g in other.grads.items()}, plain.grads, 0.01 / norm(plain.grads))


def test_every_normalisation_keeps_the_proportion(tmp_path: Path) -> None:
    """λ against a sequence's summed loss S = Σ −log π / B, or against a token's mean loss S / T̄, T̄ = 4.5.

    sequences, sequence: S + λP. tokens, sequence: the same over T̄. tokens, token: S/T̄ + λP. sequences, token:
    the same times T̄. So the penalty's shares are λP, λP/T̄, λP and T̄λP, SFT's S, S/T̄, S/T̄ and S.
    """
    by: dict[tuple[str, str], tuple[Step, Step]] = {}
    for normalisation in ("sequences", "tokens"):
        plain = step_of(tmp_path, None, normalisation=normalisation)
        for scale in ("sequence", "token"):
            penalty = {"estimator": "score_function", "scale": scale}
            by[normalisation, scale] = plain, step_of(tmp_path, penalty, normalisation=normalisation)
    base = share(*reversed(by["sequences", "sequence"]))
    for (normalisation, scale), factor in zip(by, (1, 4.5, 1 / 4.5, 1), strict=True):
        plain, found = by[normalisation, scale]
        same(share(found, plain), base, factor)
        # The number that is printed is λ times the mean penalty, in the same proportion.
        value = 0.25 * factor * found.metrics["length_penalty/value"]
        assert found.metrics["length_penalty"] == pytest.approx(value, rel=1e-5)
    same(by["sequences", "token"][0].grads, by["tokens", "token"][0].grads, 4.5)


def test_the_score_functions_share_by_hand(tmp_path: Path) -> None:
    """λ / (6 prompts × 2 samples) Σ (f_i − f_other) ∇ log π(ŷ_i|x), f = max(0, ℓ − target)², one sequence at a
    time; a sample's own length counts its stop token, and the cap where it was cut."""
    plain = step_of(tmp_path, None, normalisation="sequences")
    found = step_of(tmp_path, {"estimator": "score_function"}, normalisation="sequences")
    model, total, values = make("qwen2"), torch.zeros(()), []
    for group, pair in pairs_of(found):
        target = len(group.completions[0])
        f = [max(0, len(one.tokens) - target) ** 2 for one in pair]
        values += f
        for one, mine, other in zip(pair, f, reversed(f), strict=True):
            assert one.finish == ("stop" if one.tokens[-1] in ENDS else "cap")
            logps = single_logps(model, [CompletionGroup(group.prompt, (one.tokens,))])
            total = total + (mine - other) * logps.sum()
    (0.25 / 12 * total).backward()
    assert len(set(values)) > 3
    assert found.metrics["length_penalty/value"] == pytest.approx(sum(values) / 12)
    wanted = {f"model.{name}": p.grad for name, p in model.named_parameters()}
    same(share(found, plain), wanted)


def test_the_stop_hazards_share_by_hand(tmp_path: Path) -> None:
    """λ / (6 prompts × 2 paths) ∇ E_i, a path at a time, in float64 and with loops.

    E = Σ_t h_t S_{t−1} f(t) + S_n f(n), S_t = ∏_{s≤t} (1 − h_s), h the stop tokens' probability; to which comes
    Σ_t log(π(y_t) / (1 − h_t)) times what follows y_t, less what follows the other path's at the same step.
    """
    plain = step_of(tmp_path, None, normalisation="sequences")
    found = step_of(tmp_path, {"estimator": "stop_hazard"}, normalisation="sequences")
    model = make("qwen2").double()
    total, score, value = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0.0
    for group, pair in pairs_of(found):
        contents, futures = [], []
        for one in pair:
            assert len(one.tokens) == CAP, "none ended for lack of mass, so that both have the same steps"
            logits = model(input_ids=torch.tensor([group.prompt + one.tokens])).logits[
                0, len(group.prompt) - 1 : -1
            ]
            logps = logits.log_softmax(-1)
            h = logps[:, ENDS].exp().sum(-1)
            f = [max(0, t - len(group.completions[0])) ** 2 for t in range(1, CAP + 1)]
            terms, surviving = [], torch.ones((), dtype=torch.float64)
            for t in range(CAP):
                terms.append(h[t] * surviving * f[t])
                surviving = surviving * (1 - h[t])
            terms.append(surviving * f[-1])
            total = total + sum(terms)
            value += float(sum(terms).detach())  # type: ignore[union-attr]
            futures.append([float(sum(terms[t + 1 :]).detach()) for t in range(CAP)])  # type: ignore[union-attr]
            contents.append(logps[torch.arange(CAP), torch.tensor(one.tokens)] - (1 - h).log())
        for content, mine, other in zip(contents, futures, reversed(futures), strict=True):
            score = score + (content * (torch.tensor(mine) - torch.tensor(other))).sum()
    (0.25 / 12 * (total + score)).backward()
    assert found.metrics["length_penalty/value"] == pytest.approx(value / 12, rel=1e-5)
    same(share(found, plain), {f"model.{name}": p.grad.float() for name, p in model.named_parameters()})


def test_a_hazard_path_holds_no_stop_token(tmp_path: Path) -> None:
    paths = [one for _, pair in pairs_of(step_of(tmp_path, {"estimator": "stop_hazard"})) for one in pair]
    assert len(paths) == 12
    assert all(one.finish in ("cap", "survival") and not set(one.tokens) & set(ENDS) for one in paths)
    assert all(max(one.tokens) < VOCABULARY for one in paths)


def test_rows_whose_chosen_completion_was_cut_have_no_penalty(tmp_path: Path) -> None:
    """They still train SFT. The mean is over the others alone: λ/4 of the sum over them, not λ/6."""
    cut = [replace(g, truncated=(True,)) if i in (1, 4) else g for i, g in enumerate(GROUPS)]
    penalty = {"estimator": "score_function"}
    some = step_of(tmp_path, penalty, cut)
    f = [max(0, len(one.tokens) - len(g.completions[0])) ** 2 for g, pair in pairs_of(some, cut) for one in pair]
    assert some.metrics["length_penalty/value"] == pytest.approx(sum(f) / 8)
    assert some.metrics["length_penalty"] == pytest.approx(0.25 / 4.5 * sum(f) / 8)
    extra = some.method.prepare(cut, 0).extra
    assert extra is not None
    assert sorted(group.index for group in extra.groups) == [0, 2, 3, 5]
    # Normalised by tokens: T̄ = 4.5 of all six, as SFT's loss is.
    assert extra.total == pytest.approx(4 * 2 / (0.25 / 4.5))
    plain = step_of(tmp_path, None)
    assert some.metrics["grad_norm"] == pytest.approx(plain.metrics["grad_norm"], rel=1e-5)
    assert some.method.prepare([replace(g, truncated=(True,)) for g in GROUPS], 0).extra is None


def test_targets_are_the_chosen_lengths(tmp_path: Path) -> None:
    """Excess tokens by hand: the mean of max(0, ℓ(ŷ) − ℓ(y))."""
    found = step_of(tmp_path, {"estimator": "literal"})
    excess = [
        max(0, len(one.tokens) - len(group.completions[0])) for group, pair in pairs_of(found) for one in pair
    ]
    assert sum(e > 0 for e in excess) > 3
    assert found.metrics["length_penalty/excess_tokens"] == pytest.approx(sum(excess) / 12)
    assert found.metrics["length_penalty/grad_norm"] == 0
