"""The countdown: its numbers by hand, and the same in packed batches, padded rows, growing rows and generation."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from models.families import make
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.groups import CompletionGroup, pack
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import generate
from trimtab.evaluation.settings import Decoding
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.grpo import GRPO
from trimtab.methods.grpo_settings import GRPOSettings
from trimtab.models.length_encoding import COUNTS_FROM, KEY, LengthEncoding, packed_counts, scale_for
from trimtab.models.loading import load_policy
from trimtab.models.lora import ADAPTER
from trimtab.models.policy import Policy
from trimtab.models.reward_model import load_reward_model
from trimtab.models.settings import LoraSettings, ModelSettings
from trimtab.rollout import rows
from trimtab.rollout.sampler import Sampling, VLLMSettings
from trimtab.rollout.transformers import TransformersSampler
from trimtab.rollout.vllm import engine_for

ENCODING = LengthEncoding(scale=1.3, base=40.0, target_length=5)
"""Strong, and of short waves: counts that are off by one would show."""


def policy_of(family: str) -> Policy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy = Policy(make(family)).eval()
    policy.inputs.adopt(ENCODING)
    return policy


def wave(count: int, size: int) -> list[float]:
    """ENCODING's vector of a count, number by number."""
    if not count:
        return [0.0] * size
    angles = [count / 40.0 ** (2 * (i // 2) / size) for i in range(size)]
    return [1.3 * (math.cos(a) if i % 2 else math.sin(a)) for i, a in enumerate(angles)]


def single(model: Any, prompt: Sequence[int], tokens: Sequence[int], start: int) -> Tensor:
    """Logits [T + 1, V] of each of the tokens and of the one after them, through transformers alone, of a prompt
    whose last token counts `start`."""
    counts = [0] * (len(prompt) - 1) + [max(1, start - t) if start else 0 for t in range(len(tokens) + 1)]
    embedding = model.get_input_embeddings()
    added = torch.tensor([wave(count, embedding.weight.shape[1]) for count in counts])
    embedded = embedding(torch.tensor([[*prompt, *tokens]])) + added
    logits: Tensor = model(inputs_embeds=embedded).logits[0]
    return logits[len(prompt) - 1 :]


def single_logps(model: Any, groups: Sequence[CompletionGroup], target: int | None = None) -> Tensor:
    out = []
    for group in groups:
        for completion in group.completions:
            asked = int(group.columns[COUNTS_FROM][0])
            start = target or asked or (0 if any(group.truncated) else len(completion))
            logps = single(model, group.prompt, completion, start)[:-1].log_softmax(-1)
            out.append(logps.gather(-1, torch.tensor(completion)[:, None])[:, 0])
    return torch.cat(out)


def test_vectors_by_hand() -> None:
    """Of an odd size, too; none for 0."""
    encoding = LengthEncoding(scale=2.0, base=100.0, target_length=3)
    found = encoding.vectors(torch.tensor([[0, 1], [7, 3]]), 4)
    assert found.shape == (2, 2, 4)
    assert found[0, 0].tolist() == [0, 0, 0, 0]
    expected = [2 * math.sin(7), 2 * math.cos(7), 2 * math.sin(0.7), 2 * math.cos(0.7)]
    assert found[1, 0].tolist() == pytest.approx(expected, abs=1e-6)
    odd = encoding.vectors(torch.tensor([7]), 3)[0]
    assert odd.tolist() == pytest.approx(
        [2 * math.sin(7), 2 * math.cos(7), 2 * math.sin(7 / 100 ** (2 / 3))], abs=1e-6
    )
    assert torch.allclose(ENCODING.vectors(torch.tensor([9]), 24)[0], torch.tensor(wave(9, 24)), atol=1e-6)


def counting(groups: Sequence[CompletionGroup], *starts: int) -> list[CompletionGroup]:
    """The groups with what each counts down from; 0: its own length."""
    return [
        group.with_columns(**{COUNTS_FROM: torch.tensor([start] * len(group.completions))})
        for group, start in zip(groups, starts, strict=True)
    ]


def test_counts_by_hand() -> None:
    """A prompt's last token has its completion's length, what predicts the last token 1; a cut one has none."""
    groups = [
        CompletionGroup((5, 6, 7), ((8, 9, 10, 2),)),
        CompletionGroup((5,), ((8, 9, 10),), truncated=(True,)),
        CompletionGroup((5, 6), ((2,),)),
        CompletionGroup((5, 6), ((8, 9), (8, 9, 10, 11, 2))),
        CompletionGroup((5,), ((8, 9, 2),), truncated=(False,)),
    ]
    assert packed_counts(pack(groups[:3]), None).tolist() == [0, 0, 4, 3, 2, 1, 0, 0, 0, 0, 1]
    groups = counting(groups, 0, 0, 0, 3, 7)
    own = [[0, 0, 4, 3, 2, 1], [0, 0, 0], [0, 1], [0, 3, 2, 2, 1, 1, 1], [7, 6, 5]]
    held = [[0, 0, 2, 1, 1, 1], [2, 1, 1], [0, 2], [0, 2, 1, 1, 1, 1, 1], [2, 1, 1]]
    for target, expected in ((None, own), (2, held)):
        assert packed_counts(pack(groups), target).tolist() == [n for part in expected for n in part]


def test_completions_of_one_prompt_need_a_target() -> None:
    shared = CompletionGroup((5, 6), ((8, 9), (8, 9, 2)))
    for family in ("qwen2", "gpt2"):
        with pytest.raises(TrimtabError, match="share its last token"):
            policy_of(family)(pack([shared]))


GROUPS = counting(
    [
        CompletionGroup((5, 6, 7), ((8, 9, 10, 11, 12, 13, 14, 15, 2),)),
        CompletionGroup((20,), ((21, 22),), truncated=(True,)),
        CompletionGroup((30, 31, 32, 33), ((2,),)),
        CompletionGroup((40, 41), ((42, 43, 2), (44,), (42, 45, 46, 47, 2))),
    ],
    *(0, 0, 0, 4),
)


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2", "gemma3", "gpt2"])
@pytest.mark.parametrize("target", [None, 3])
def test_packed_equals_single_sequences(family: str, target: int | None) -> None:
    """Log-probabilities and gradients, those of the embeddings too; a shared prompt where there is one target."""
    policy = policy_of(family)
    model, policy.inputs.target = make(family), target
    expected = single_logps(model, GROUPS, target)
    weights = torch.randn(expected.numel(), generator=torch.Generator().manual_seed(0))
    (expected * weights).sum().backward()
    found = policy(pack(GROUPS)).logps
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    ours = dict(policy.model.named_parameters())
    for name, weight in model.named_parameters():
        noise = 1e-6 if name.endswith("k_proj.bias") else 1e-8
        assert weight.grad is not None
        assert (ours[name].grad - weight.grad).norm() <= 1e-5 * weight.grad.norm() + noise, name
    policy.inputs.encoding = None
    assert (policy(pack(GROUPS[:3])).logps - expected[:12]).abs().max() > 0.1, "the countdown matters"


PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13)]


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "gpt2", "recomputed"])
def test_growing_rows_equal_whole_passes(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of uneven prompts and targets, some of which leave; beyond its target a row stays at 1."""
    if family == "recomputed":
        monkeypatch.setattr(rows, "serves_cache", lambda policy: False)
    policy, targets = policy_of("qwen2" if family == "recomputed" else family), [4, 9, 2]
    of_row = [0, 2, 0, 1]
    drawn = torch.randint(3, 61, (6, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        prompts = rows.Prompts(policy, PROMPTS, targets)
        for p in range(3):
            expected = single(policy.model, PROMPTS[p], (), targets[p])[-1]
            torch.testing.assert_close(prompts.logits_PV[p], expected, atol=2e-5, rtol=1e-5)
        growing, left = prompts.rows(torch.tensor(of_row)), [0, 1, 2, 3]
        for t in range(6):
            if t in (2, 4):
                kept = torch.tensor([1, 2, 3] if t == 2 else [2, 0])
                growing.keep(kept)
                left = [left[i] for i in kept.tolist()]
            logits = growing.advance(drawn[t, left])
            for b, row in enumerate(left):
                p = of_row[row]
                expected = single(policy.model, PROMPTS[p], drawn[: t + 1, row].tolist(), targets[p])[-1]
                torch.testing.assert_close(logits[b], expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def greedy(model: Any, prompt: Sequence[int], start: int, cap: int) -> list[int]:
    """By whole passes."""
    tokens: list[int] = []
    while len(tokens) < cap:
        tokens.append(int(single(model, prompt, tokens, start)[-1].argmax()))
    return tokens


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_the_sampler_counts_down_from_the_policys_target(family: str) -> None:
    policy = policy_of(family)
    given = Sampling(temperatures=(0.0,), max_new_tokens=8)
    for held, start in ((None, ENCODING.target_length), (3, 3)):
        policy.inputs.target = held
        found = TransformersSampler(policy).sample(PROMPTS, 2, given, seed=0, stops=[])
        for prompt, samples in zip(PROMPTS, found, strict=True):
            assert [list(s.tokens) for s in samples] == [greedy(policy.model, prompt, start, 8)] * 2


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_beams_by_enumeration(family: str) -> None:
    """As many beams as tokens: the best of all pairs of tokens, which counts of 2 and 1 decide."""
    policy = policy_of(family)
    policy.inputs.target = 2
    search = {"num_beams": 61, "length_penalty": 1.0, "max_new_tokens": 2}
    found = TransformersSampler(policy).beam(PROMPTS, stops=[], **search)  # type: ignore[arg-type]
    for prompt, beam in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            pairs = torch.stack([single(policy.model, prompt, (a,), 2).log_softmax(-1)[-1] for a in range(61)])
            pairs += single(policy.model, prompt, (), 2).log_softmax(-1)[-1][:, None]
        assert beam == list(divmod(int(pairs.argmax()), 61))


@pytest.mark.parametrize("target", [None, 3, 9])
def test_evaluation_counts_down_and_leaves_no_hook(target: int | None, tiny_model_dir: Callable[..., Path]) -> None:
    """Padded batches, whose prompts end in one column, through transformers' generate."""
    folder = str(tiny_model_dir(initializer_range=0.3))
    policy, chat = load_policy(folder).eval(), ChatFormat(load_tokenizer(folder))
    policy.inputs.adopt(ENCODING)
    prompts, stop = ["Where is the cat?", "A longer question: why?"], 1
    decoding = Decoding(strategy="greedy", max_new_tokens=9, target_length=target)
    found = generate(policy.model, chat, prompts, decoding, [stop])
    for prompt, one in zip(prompts, found, strict=True):
        row = greedy(policy.model, chat.prompt_ids(prompt), target or ENCODING.target_length, 9)
        row = row[: row.index(stop)] if stop in row else row
        assert one.text == chat.tokenizer.decode(row, skip_special_tokens=True)
    assert not policy.model.get_input_embeddings()._forward_hooks
    sampled = Decoding(max_new_tokens=9, target_length=target, temperature=1.0)
    others = [generate(policy.model, chat, prompts, sampled, [stop]) for _ in range(2)]
    assert others[0] == others[1]


def test_the_target_is_in_the_signature_and_within_the_cap() -> None:
    plain, short = Decoding(max_new_tokens=9), Decoding(max_new_tokens=9, target_length=4)
    assert "target:4" in short.signature().split("|")
    assert "target" not in plain.signature()
    with pytest.raises(ValueError, match="beyond max_new_tokens"):
        Decoding(max_new_tokens=9, target_length=10)


def test_the_scale_by_hand() -> None:
    """Rows of squared norms 9 and 16, mean 12.5; an encoding of four numbers has a squared norm of 2 at scale 1."""
    embedding = nn.Embedding(2, 4)
    with torch.no_grad():
        embedding.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 0, 4.0, 0]]))
    assert scale_for(embedding, 1.0) == pytest.approx(math.sqrt(12.5 / 2))
    scale = scale_for(embedding, 0.5)
    encoding = LengthEncoding(scale=scale, base=10_000.0, target_length=1)
    assert float(encoding.vectors(torch.tensor([17]), 4).norm()) == pytest.approx(0.5 * math.sqrt(12.5), rel=1e-6)


def test_gemmas_scale_is_of_what_its_layers_see() -> None:
    embedding = make("gemma3").get_input_embeddings()
    seen = embedding(torch.arange(61)).norm(dim=1).square().mean().sqrt()
    assert scale_for(embedding, 1.0) * math.sqrt(12) == pytest.approx(float(seen), rel=1e-5)


def saved(policy: Policy, folder: Path) -> Path:
    policy.save(folder)
    return folder


def test_saved_and_loaded(tmp_path: Path) -> None:
    policy = policy_of("qwen2")
    folder = saved(policy, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())[KEY] == ENCODING.model_dump()
    again = load_policy(str(folder)).eval()
    assert again.inputs.encoding == ENCODING
    with torch.no_grad():
        assert torch.equal(again(pack(GROUPS)).logps, policy(pack(GROUPS)).logps)
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert torch.equal(plain.get_input_embeddings().weight, policy.model.get_input_embeddings().weight)
    assert copy.deepcopy(policy).inputs.encoding == ENCODING
    reward = load_reward_model(str(folder))
    assert not hasattr(reward.model.config, KEY), "a reward model does not count"


def test_an_adapter_brings_it_along(tmp_path: Path) -> None:
    make("qwen2").save_pretrained(tmp_path / "base")
    policy = load_policy(str(tmp_path / "base"), ModelSettings(lora=LoraSettings(rank=2)), seed=0).eval()
    policy.inputs.adopt(ENCODING)
    folder = saved(policy, tmp_path / "tuned")
    with torch.no_grad():
        expected = policy(pack(GROUPS)).logps
        for place in (folder, folder / ADAPTER):
            again = load_policy(str(place)).eval()
            assert again.inputs.encoding == ENCODING, place
            torch.testing.assert_close(again(pack(GROUPS)).logps, expected, atol=2e-5, rtol=1e-5)


def test_who_cannot_count_says_so(tmp_path: Path) -> None:
    policy = policy_of("qwen2")
    folder = str(saved(policy, tmp_path / "model"))
    with pytest.raises(TrimtabError, match="counts down to a target length"):
        DPO.load(folder, DPOSettings())
    assert GRPO.load(folder, GRPOSettings()).inputs.target == ENCODING.target_length
    with pytest.raises(TrimtabError, match="choose engine transformers"):
        engine_for(policy.model, "float32", VLLMSettings())
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"scale"', '"skale"'))
    with pytest.raises(TrimtabError, match=f"{KEY}: scale: Field required"):
        load_policy(folder)


def test_what_a_reference_depends_on() -> None:
    """The same weights with another encoding, or held to another target, are another reference."""
    policy = policy_of("qwen2")
    keys = [policy.inputs.key]
    policy.inputs.target = 5
    keys.append(policy.inputs.key)
    policy.inputs.adopt(ENCODING.model_copy(update={"scale": 1.4}))
    keys.append(policy.inputs.key)
    assert len(set(keys)) == 3
    assert Policy(make("qwen2")).inputs.key == ""
