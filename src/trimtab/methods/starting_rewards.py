"""What samples of the starting model say before the first step: how well it does on each prompt, for a curriculum,
and on which scale a reward's members are."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from accelerate.utils import gather_object

from trimtab.data.groups import CompletionGroup
from trimtab.data.records import columns_of
from trimtab.files import make_folder
from trimtab.methods.collector import Collector
from trimtab.methods.rollouts import Scoring, sample_text
from trimtab.models.reference import hash_groups, keep_numbers, kept_numbers
from trimtab.notices import say, warn
from trimtab.training.operational import without_operational

TOGETHER = 1024
"""Prompts that are drawn and scored at once."""
STREAM, SCALE = 3, 4
"""Of random numbers: training's own draws have others."""
SCALED_ON = 256
"""Prompts of which a sample each gives a reward its scale: those of the first rows."""


@torch.no_grad()
def set_scale(collector: Collector, groups: Sequence[CompletionGroup]) -> None:
    """Lets the reward take its scale from a sample of each of the first prompts, the same in every process and at
    every start: the policy is the starting model until a checkpoint is read."""
    context = collector.context
    seed = np.random.SeedSequence([context.settings.seed, 0, 0, SCALE]).generate_state(1)
    prompts = list(groups[:SCALED_ON])
    context.policy.eval()
    with context.accelerator.autocast():
        drawn = collector.sampler.sample(
            [group.prompt for group in prompts], 1, collector.sampling, seed=int(seed[0]), stops=context.stops
        )
    texts = [sample_text(context.chat, sample) for (sample,) in drawn]
    rows = [context.train_records[group.index] for group in prompts]
    collector.reward.set_scale(
        [row.prompt for row in rows], texts, completion_ids=[sample.tokens for (sample,) in drawn],
        columns=columns_of(rows, context.train_records),
    )  # fmt: skip


def starting_rewards(collector: Collector, groups: Sequence[CompletionGroup], samples: int) -> list[float | None]:
    """The mean over each prompt's samples that have a reward; None where none has.

    Kept on the disk under a hash of all that they depend on. Processes share the prompts out, and each gets all.
    """
    context = collector.context
    file = context.cache / f"rewards-{_key(collector, groups, samples)}.safetensors"
    kept, wrong = kept_numbers(file, len(groups), torch.float64) if file.is_file() else (None, None)
    if wrong:
        warn(f"{collector.method}: {file} {wrong}: it is computed anew")
    everywhere = [kept is not None]
    if context.accelerator.num_processes > 1:
        everywhere = gather_object(everywhere)  # one that has it must not leave the others waiting
    if kept is not None and all(everywhere):
        return [None if math.isnan(mean) else mean for mean in kept.tolist()]
    if context.accelerator.is_main_process:
        say(f"{collector.method}: {samples} samples of each of {len(groups)} prompts, for their order")
    context.policy.eval()
    means = _drawn(collector, groups, samples)
    if context.accelerator.is_main_process:
        make_folder(file.parent)
        numbers = [math.nan if mean is None else mean for mean in means]
        keep_numbers(file, torch.tensor(numbers, dtype=torch.float64))
    return means


def _key(collector: Collector, groups: Sequence[CompletionGroup], samples: int) -> str:
    """A hash of the weights, the prompts, how they are sampled, and what the reward knows of them."""
    context = collector.context
    records = [context.train_records[group.index] for group in groups]
    given = [samples, context.settings.seed, collector.sampling.model_dump(), collector.reward.signature]
    known = [[repr(record.prompt), dict(record.columns)] for record in records]
    digest = hashlib.blake2b(context.starting_key.encode(), digest_size=16)
    for part in (without_operational(given), known):
        digest.update(json.dumps(part, sort_keys=True, default=repr).encode())
    digest.update(hash_groups(groups).encode())
    return digest.hexdigest()


@torch.no_grad()
def _drawn(collector: Collector, groups: Sequence[CompletionGroup], samples: int) -> list[float | None]:
    collector.places(groups)  # enough for all processes
    means: list[float | None] = []
    parts = np.array_split(np.arange(len(groups)), math.ceil(len(groups) / TOGETHER))
    for number, places in enumerate(parts):
        part = [groups[place] for place in places.tolist()]
        seed = np.random.SeedSequence([collector.context.settings.seed, number, 0, STREAM]).generate_state(1)
        scorings = collector.score(part, samples, collector.sampling, int(seed[0]), collector.context.train_records)
        means += collector.gather_in_order(part, [_mean(scoring) for scoring in scorings])
    collector.reward.take_metrics()  # what it logged is of no step
    return means


def _mean(scoring: Scoring) -> float | None:
    scores = [scored.score for scored in scoring.scored if scored.score is not None]
    return sum(scores) / len(scores) if scores else None
