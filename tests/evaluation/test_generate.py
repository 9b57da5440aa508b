"""Decoding: the same for every model, whatever its own generation config says."""

from __future__ import annotations

from collections.abc import Callable
from operator import eq
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.records import Message, Record
from trimtab.data.splits import DataSettings
from trimtab.errors import TrimtabError
from trimtab.evaluation import complete as module
from trimtab.evaluation.generate import generate, stop_tokens
from trimtab.evaluation.measure import measure
from trimtab.evaluation.outputs import MethodOutputs, read_scores
from trimtab.evaluation.settings import Decoding, EvaluationSettings, EvaluationTask
from trimtab.models.loading import load_policy
from trimtab.rewards.base import Reward, Scored

PROMPTS = ["Where is the cat?", "A much longer question, about many things at once: tell me all.", "Hi"]


@pytest.fixture
def ready(tiny_model_dir: Callable[..., Path]) -> tuple[Any, ChatFormat]:
    folder = tiny_model_dir(initializer_range=0.2)
    return load_policy(str(folder)).eval().model, ChatFormat(load_tokenizer(str(folder)))


def test_a_models_own_generation_config_changes_nothing(ready: tuple[Any, ChatFormat]) -> None:
    """Qwen's Instruct models ship with a repetition penalty; their opponents have none."""
    model, chat = ready
    stops = stop_tokens(model, chat)
    for strategy in ("greedy", "beam", "sample"):
        decoding = Decoding(strategy=strategy, max_new_tokens=12, num_beams=3)  # type: ignore[arg-type]
        before = generate(model, chat, PROMPTS, decoding, stops)
        own = model.generation_config
        model.generation_config = GenerationConfig(
            repetition_penalty=9.0, top_k=1, eos_token_id=stops, min_new_tokens=9
        )
        assert generate(model, chat, PROMPTS, decoding, stops) == before
        assert model.generation_config.repetition_penalty == 9.0, "and it is left as it was"
        model.generation_config = own


def test_batches_change_nothing_but_speed(ready: tuple[Any, ChatFormat]) -> None:
    """Greedy completions of padded batches equal those of single prompts."""
    model, chat = ready
    stops = stop_tokens(model, chat)
    together = generate(model, chat, PROMPTS, Decoding(strategy="greedy", max_new_tokens=10), stops)
    alone = Decoding(strategy="greedy", max_new_tokens=10, batch_size=1)
    assert generate(model, chat, PROMPTS, alone, stops) == together


def test_sampling_repeats_and_leaves_the_random_state_alone(ready: tuple[Any, ChatFormat]) -> None:
    model, chat = ready
    decoding = Decoding(strategy="sample", temperature=1.0, max_new_tokens=10)
    before = torch.get_rng_state()
    first = generate(model, chat, PROMPTS, decoding, stop_tokens(model, chat))
    assert torch.equal(torch.get_rng_state(), before)
    assert generate(model, chat, PROMPTS, decoding, stop_tokens(model, chat)) == first
    other = decoding.model_copy(update={"seed": 1})
    assert generate(model, chat, PROMPTS, other, stop_tokens(model, chat)) != first


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_rows_of_our_own_have_the_tokens_of_generate(strategy: Any, tiny_model_dir: Callable[..., Path]) -> None:
    """Prompts of uneven length, in batches and one by one."""
    folder = tiny_model_dir(initializer_range=0.2)
    policy, chat = load_policy(str(folder)).eval(), ChatFormat(load_tokenizer(str(folder)))
    stops = stop_tokens(policy.model, chat)
    for size in (2, 64):
        decoding = Decoding(strategy=strategy, max_new_tokens=12, num_beams=3, batch_size=size)
        with torch.no_grad():
            theirs = generate(policy.model, chat, PROMPTS, decoding, stops)
        assert generate(policy, chat, PROMPTS, decoding, stops) == theirs


def test_a_samples_draws_are_its_own(tiny_model_dir: Callable[..., Path]) -> None:
    """Whatever the batch, but where a product's last bit decides between two tokens; another seed draws others, and
    the caller's random state is left alone."""
    folder = tiny_model_dir(initializer_range=0.2)
    policy, chat = load_policy(str(folder)).eval(), ChatFormat(load_tokenizer(str(folder)))
    stops = stop_tokens(policy.model, chat)
    decoding = Decoding(strategy="sample", temperature=1.0, max_new_tokens=10)
    before = torch.get_rng_state()
    first = generate(policy, chat, PROMPTS, decoding, stops)
    assert torch.equal(torch.get_rng_state(), before)
    assert generate(policy, chat, PROMPTS, decoding, stops) == first
    for changed in ({"seed": 100}, {"top_p": 1e-9}):
        assert generate(policy, chat, PROMPTS, decoding.model_copy(update=changed), stops) != first
    seeds = [decoding.model_copy(update={"seed": seed}) for seed in range(8)]
    together = [one for seed in seeds for one in generate(policy, chat, PROMPTS, seed, stops)]
    apart = [seed.model_copy(update={"batch_size": 1}) for seed in seeds]
    alone = [one for seed in apart for one in generate(policy, chat, PROMPTS, seed, stops)]
    assert sum(map(eq, together, alone)) >= 0.9 * len(together)
    greedy = generate(policy, chat, PROMPTS, Decoding(strategy="greedy", max_new_tokens=10), stops)
    assert generate(policy, chat, PROMPTS, decoding.model_copy(update={"top_p": 1e-9}), stops) == greedy


def test_a_prompt_without_room_is_an_error_not_a_short_answer(ready: tuple[Any, ChatFormat]) -> None:
    model, chat = ready
    model.config.max_position_embeddings = 40
    with pytest.raises(TrimtabError, match="prompt 2 has"):
        generate(model, chat, ["Hi", "word " * 60], Decoding(max_new_tokens=8), stop_tokens(model, chat))


def test_what_vouches_for_an_evaluation_goes_before_it_is_replaced(
    tiny_model_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated with A, then with B and killed: A again is not answered with what B left."""
    model = str(tiny_model_dir())
    records = [Record(prompt, ("yes",)) for prompt in PROMPTS]

    def run(cap: int) -> list[str]:
        settings = EvaluationSettings(decoding=Decoding(strategy="greedy", max_new_tokens=cap))
        data = DataSettings(train="unused")
        out = measure(EvaluationTask("m", model, "hash", records, records, settings, data, None, tmp_path / "e"))
        return [g.completion for g in out.generations]

    first = run(4)

    def dies(path: Path, rows: Any) -> None:
        write(path, rows)
        raise KeyboardInterrupt

    write = module.write_rows
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_rows", dies)
        with pytest.raises(KeyboardInterrupt):
            run(2)
    assert run(4) == first


def test_bf16_rounds_weights_and_no_rotary_frequency(
    tiny_model_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stub(model: Any, *_: Any, **__: Any) -> list[Any]:
        seen.append(({p.dtype for p in model.parameters()}, {b.dtype for b in model.buffers()}))
        return []

    monkeypatch.setattr(module, "generate", stub)
    folder = str(tiny_model_dir(initializer_range=0.2))
    data = DataSettings(train="rows")
    for precision in ("bf16", "float32"):
        settings = EvaluationSettings(precision=precision)  # type: ignore[arg-type]
        measure(EvaluationTask("m", folder, "hash", [], [], settings, data, None, tmp_path / precision))
    assert seen == [({torch.bfloat16}, {torch.float32}), ({torch.float32}, {torch.float32})]


def test_a_foreign_tokenizer_is_refused(tiny_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model_dir()
    smaller = tiny_model_dir("smaller", vocab_size=50, eos_token_id=None, pad_token_id=None)
    with pytest.raises(TrimtabError, match="the model 50 embeddings"):
        measure(EvaluationTask(
            "m", str(smaller), "hash", [], [], EvaluationSettings(), DataSettings(train="rows"), None,
            tmp_path / "e", str(folder),
        ))  # fmt: skip


class Counting(Reward):
    """Scores 1, fails on the second completion."""

    name, signature = "counting", "counting|1"

    def __init__(self) -> None:
        self.prompts: list[Any] = []

    def scored(self, prompts: Any, completions: Any, **_: Any) -> list[Scored]:
        self.prompts += prompts
        return [Scored(1.0, breakdown={"correctness": 0.5}), Scored(None, "timeout"), Scored(None)]


def test_the_judge_sees_every_turn_and_its_reasons_are_kept(
    tiny_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """Three prompts, one of several turns; scores.jsonl has score, reason and parts. Another judge scores anew."""
    turns = (Message("user", "Lisbon?"), Message("assistant", "Yes."), Message("user", "Why?"))
    records = [Record("Where?", ("yes",)), Record(turns, ("yes",)), Record("Hi", ("yes",))]
    model, settings = str(tiny_model_dir()), EvaluationSettings(decoding=Decoding(max_new_tokens=3))

    def run(judge: Reward) -> MethodOutputs:
        return measure(
            EvaluationTask(
                "m", model, "hash", records, [], settings, DataSettings(train="rows"), judge, tmp_path / "e"
            )
        )

    judge = Counting()
    found = run(judge).scores
    assert judge.prompts == ["Where?", turns, "Hi"]
    assert [(s.score, s.reason, s.breakdown) for s in found] == [
        (1.0, None, {"correctness": 0.5}),
        (None, "timeout", {}),
        (None, "the judge gave no score", {}),
    ]
    assert read_scores(tmp_path / "e" / "scores.jsonl") == found
    run(judge)
    assert len(judge.prompts) == 3, "already done"
    judge.signature = "counting|2"
    run(judge)
    assert len(judge.prompts) == 6
