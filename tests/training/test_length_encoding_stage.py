"""The countdown in training: what it teaches, what a stage keeps of it, and who goes on with it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from training.grpo_runs import grpo
from trimtab.data.groups import CompletionGroup
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import LengthEncodingSettings, SFTSettings
from trimtab.models.length_encoding import COUNTS_FROM, LengthEncoding
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy
from trimtab.rollout.sampler import Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.training.accelerator import make_accelerator
from trimtab.training.loop import Loop
from trimtab.training.stage import run_stage
from trimtab.training.stage_method import TrainingContext

LETTERS, COLON, END = (3, 4, 5, 6), 7, 2
LONGEST = 12
PLAIN: dict[str, Any] = {
    "learning_rate": 1e-2, "batch_size": 44, "max_steps": 300, "warmup_steps": 5, "precision": "float32", "seed": 0,
}  # fmt: skip


def letters(letter: int, length: int) -> CompletionGroup:
    """`a:` is answered with `aaa…`, as long as may be, and the end."""
    return CompletionGroup((letter, COLON), ((*[letter] * (length - 1), END),))


DATA = [letters(letter, length) for letter in LETTERS for length in range(2, LONGEST + 1)]


def untrained() -> Policy:
    """Of eight tokens."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        eos_token_id=END, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    return Policy(Qwen2ForCausalLM(config))


def trained(folder: Path, **given: Any) -> Policy:
    """The same after some seconds with the letters."""
    policy, settings = untrained(), SFTSettings(**PLAIN | given)
    prepared = TrainingContext(policy, DATA, [], settings, make_accelerator(settings), folder / "cache")
    loop = Loop(policy, SFT(settings, prepared), DATA, settings, folder, prepared.accelerator, lambda path: None)
    for step in range(loop.steps):
        loop.train_step(step)
    return policy.eval()


def answered(policy: Policy, target: int, temperature: float = 1.0) -> list[int]:
    """Lengths of eight answers to every letter; greedy ones consist of that letter."""
    policy.inputs.target = target
    given = Sampling(temperatures=(temperature,), max_new_tokens=3 * LONGEST)
    found = TransformersSampler(policy).sample([(a, COLON) for a in LETTERS], 8, given, seed=1, stops=[END])
    for letter, samples in zip(LETTERS, found, strict=True):
        for one in samples:
            assert temperature or set(one.tokens) == {letter, END}
    return [len(one.tokens) for samples in found for one in samples]


def test_answers_are_as_long_as_they_are_asked_to_be(tmp_path: Path) -> None:
    """Every length of the data, and the end nowhere else; without the countdown the length is a guess."""
    policy = trained(tmp_path, length_encoding={"strength": 1.0})
    for target in range(2, LONGEST + 1):
        assert set(answered(policy, target, temperature=0.0)) == {target}
        assert statistics.mean(abs(n - target) for n in answered(policy, target)) < 0.1
    policy.inputs.encoding = None
    apart = [abs(n - target) for target in range(2, LONGEST + 1) for n in answered(policy, target)]
    assert statistics.mean(apart) > 2


def test_with_slack_the_target_is_a_bound(tmp_path: Path) -> None:
    """Trained on counts of ℓ to 2ℓ: answers end at the target or before, and not all at it."""
    policy = trained(tmp_path, length_encoding={"slack": 1.0})
    found = {target: answered(policy, target) for target in (6, 9, 12)}
    assert all(sum(n <= target for n in lengths) >= 0.9 * len(lengths) for target, lengths in found.items())
    assert all(statistics.mean(lengths) < target - 0.5 for target, lengths in found.items())
    means = [statistics.mean(lengths) for lengths in found.values()]
    assert means == sorted(means)
    assert len(set(found[12])) > 2


def test_slack_is_drawn_anew_and_only_of_whole_completions(tmp_path: Path) -> None:
    """Counts from ℓ to ⌊2.5 ℓ⌋, each about as often; the same step draws the same."""
    cut = CompletionGroup((3, COLON), ((3, 3, 3),), truncated=(True,))
    groups = [letters(3, 4)] * 700 + [cut]
    settings = SFTSettings(length_encoding={"slack": 1.5}, **PLAIN)  # type: ignore[arg-type]
    method = SFT(settings, TrainingContext(untrained(), groups, [], settings, make_accelerator(settings), tmp_path))
    first = [int(group.columns[COUNTS_FROM]) for group in method.prepare(groups, 3).groups]
    assert first[-1] == 0
    counts = [first[:-1].count(n) for n in range(4, 11)]
    assert sum(counts) == 700
    assert min(counts) > 60
    assert [int(group.columns[COUNTS_FROM]) for group in method.prepare(groups, 3).groups] == first
    assert [int(group.columns[COUNTS_FROM]) for group in method.prepare(groups, 4).groups] != first


SETTINGS: dict[str, Any] = {
    "batch_size": 4, "max_steps": 5, "learning_rate": 1e-3, "precision": "float32", "checkpoint_interval": 2,
    "evaluation_interval": 5, "logging_interval": 1, "length_encoding": LengthEncodingSettings(slack=0.5),
}  # fmt: skip


def run(model: Path, pairs: Path, out: Path, **given: Any) -> Path:
    rows = DataSettings(train=str(pairs), max_length=200, validation_rows=6)
    return run_stage("sft", SFT, SFTSettings(**SETTINGS | given), rows, str(model), out)


def test_a_stage_resumes_and_keeps_its_encoding(
    tmp_path: Path, toy_model: Path, toy_pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its fourth step and run again: the weights and the encoding of a run that was not."""
    whole = run(toy_model, toy_pairs, tmp_path / "whole")
    step = Loop.train_step

    def stopping(self: Loop, at: int) -> Any:
        if at == 3:
            raise KeyboardInterrupt
        return step(self, at)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(toy_model, toy_pairs, tmp_path / "stopped")
    resumed = run(toy_model, toy_pairs, tmp_path / "stopped")
    one, two = (load_file(best / "model.safetensors") for best in (whole, resumed))
    start = load_file(toy_model / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], start[name]) for name in one)
    assert (whole / "config.json").read_text() == (resumed / "config.json").read_text()
    kept = load_policy(str(whole)).inputs.encoding
    assert kept is not None
    assert (kept.slack, kept.base) == (0.5, 10_000.0)
    assert f"{kept.target_length} tokens where nobody asks" in (whole / "README.md").read_text()
    # SFT goes on with what the model has; a penalty would steer the length too.
    again = run(whole, toy_pairs, tmp_path / "again", length_encoding=None, max_steps=1)
    assert load_policy(str(again)).inputs.encoding == kept
    with pytest.raises(TrimtabError, match="leave length_penalty out"):
        run(whole, toy_pairs, tmp_path / "both", length_encoding=None, length_penalty={})


def test_the_default_target_is_the_median_of_whole_completions(tmp_path: Path) -> None:
    """2, 3, 9 and one of 20 that was cut: 3; and a setting comes before it."""
    cut = CompletionGroup((3, COLON), ((3,) * 20,), truncated=(True,))
    groups = [letters(3, 9), letters(4, 2), cut, letters(5, 3)]
    for given, expected in ((None, 3), (6, 6)):
        found = encoding_of_data(groups, tmp_path, LengthEncodingSettings(target_length=given))
        assert found.target_length == expected
    with pytest.raises(TrimtabError, match="every training completion was cut"):
        encoding_of_data([cut], tmp_path, LengthEncodingSettings())


def encoding_of_data(groups: list[CompletionGroup], folder: Path, given: LengthEncodingSettings) -> LengthEncoding:
    settings = SFTSettings(length_encoding=given, **PLAIN)
    policy = untrained()
    SFT(settings, TrainingContext(policy, groups, [], settings, make_accelerator(settings), folder))
    assert policy.inputs.encoding is not None
    return policy.inputs.encoding


def test_grpo_goes_on_under_the_models_target(tmp_path: Path, stopping_model: Path, toy_pairs: Path) -> None:
    """Sampler and trainer count alike: with four samples a prompt their log-probabilities are equal; and the saved
    model still counts."""
    policy = load_policy(str(stopping_model))
    policy.inputs.adopt(LengthEncoding(scale=1.0, base=100.0, target_length=4))
    policy.save(tmp_path / "start")
    for file in stopping_model.iterdir():
        if not (tmp_path / "start" / file.name).exists() or file.name == "generation_config.json":
            (tmp_path / "start" / file.name).write_bytes(file.read_bytes())
    ran = grpo(tmp_path / "start", toy_pairs, tmp_path / "run", max_steps=1, validation=4, validation_prompts=4)
    assert ran.rows[0]["sampling/sampling_logp_difference/max"] < 1e-4
    assert ran.rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert load_policy(str(ran.out / "best")).inputs.encoding == policy.inputs.encoding
