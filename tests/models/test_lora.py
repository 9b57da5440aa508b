"""Adapters are exact: packed equals single sequences, merged equals unmerged, and a reference costs an adapter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from models.families import VOCABULARY, batches, make, single_logps
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.hashing import hash_source, hash_weights
from trimtab.errors import TrimtabError
from trimtab.models.loading import load_policy
from trimtab.models.lora import frozen_copy, hash_model, merged, plain_state, shares_ends
from trimtab.models.policy import Policy
from trimtab.models.reward_model import for_scoring, load_reward_model
from trimtab.models.settings import LoraSettings, ModelSettings

GROUP = CompletionGroup((3, 4, 5), ((6, 7, 8), (9, 10)))
WITH_LORA = ModelSettings(lora=LoraSettings(rank=4))


def save(family: str, folder: Path) -> str:
    make(family).save_pretrained(folder)
    return str(folder)


def disturb(policy: Any, seed: int = 1) -> Any:
    """As after training: B is no longer 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if weight.requires_grad and weight.ndim > 1:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
                assert "lora_" in name
    return policy


@pytest.fixture(scope="module", params=["qwen2", "gemma2", "gpt2", "dora", "rslora"])
def trained(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    family = request.param if request.param not in ("dora", "rslora") else "llama"
    chosen = {request.param: True} if request.param in ("dora", "rslora") else {}
    source = save(family, tmp_path_factory.mktemp("base"))
    lora = LoraSettings(rank=4, **chosen)
    return disturb(load_policy(source, ModelSettings(lora=lora))).eval()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=batches)
def test_packed_with_an_adapter_equals_single_sequences_of_the_merged_model(
    trained: Policy, members: list[CompletionGroup]
) -> None:
    plain = merged(trained.adapter)
    plain.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(trained(pack(members)).logps, single_logps(plain, members), rtol=1e-4, atol=2e-5)


def test_a_new_adapter_changes_nothing_and_is_the_seeds(tmp_path: Path) -> None:
    source = save("qwen2", tmp_path)
    plain, new = load_policy(source), load_policy(source, WITH_LORA, seed=3)
    with torch.no_grad():
        assert torch.equal(plain(pack([GROUP])).logps, new(pack([GROUP])).logps)
    assert hash_weights(plain.model.state_dict()) == hash_weights(new.starting_state())
    again, other = load_policy(source, WITH_LORA, seed=3), load_policy(source, WITH_LORA, seed=4)
    assert hash_weights(new.state_dict()) == hash_weights(again.state_dict()) != hash_weights(other.state_dict())


def test_what_is_trained(tmp_path: Path) -> None:
    """Rank 4 for q, k, v, o (24→24, 24→12 twice, 24→24), gate, up (24→40), down (40→24), in 2 layers:
    4 · (48 + 36 + 36 + 48 + 64 + 64 + 64) · 2 = 2,880 weights; the head has none."""
    policy = load_policy(save("qwen2", tmp_path), WITH_LORA)
    found = {name: p.numel() for name, p in policy.named_parameters() if p.requires_grad}
    assert sum(found.values()) == 2880
    assert not any("lm_head" in name for name in found)
    some = load_policy(str(tmp_path), ModelSettings(lora=LoraSettings(rank=4, targets=("q_proj",))))
    assert sum(p.numel() for p in some.parameters() if p.requires_grad) == 4 * 48 * 2
    with pytest.raises(TrimtabError, match=r"lora\.targets"):
        load_policy(str(tmp_path), ModelSettings(lora=LoraSettings(targets=("nonsense",))))


def test_saved_merged_and_as_an_adapter(tmp_path: Path) -> None:
    import peft

    base = save("qwen2", tmp_path / "base")
    policy = disturb(load_policy(base, WITH_LORA)).eval()
    before = hash_weights(policy.state_dict())
    policy.save(tmp_path / "best")
    assert hash_weights(policy.state_dict()) == before
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    ours = policy.model(input_ids=ids[:, :1]).logits  # one token: no tree is needed
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "best")
    start = AutoModelForCausalLM.from_pretrained(base)
    by_peft = peft.PeftModel.from_pretrained(copy.deepcopy(start), tmp_path / "best" / "adapter")
    assert not any("lora" in name for name in plain.state_dict())
    torch.testing.assert_close(plain(ids[:, :1]).logits, ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain(ids).logits, by_peft(ids).logits, rtol=1e-4, atol=1e-5)
    assert (plain(ids).logits - start(ids).logits).abs().max() > 0.01


ENDS: dict[str, tuple[str, ...] | str] = {
    "head": ("q_proj", "lm_head"),
    "embeddings": ("q_proj", "embed_tokens"),
    "both": ("lm_head", "embed_tokens"),
    "neither": "all-linear",
}


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "nf4"])
def test_tied_ends_are_saved_as_they_were_trained(kind: str, ends: str, tmp_path: Path) -> None:
    """peft merges into the weights that both ends share. best/ has two where an adapter was on one of them, and
    says so in its config; read as a stranger would, and from its adapter, it is the function that was trained."""
    if kind == "nf4":
        pytest.importorskip("bitsandbytes", reason="four bits need bitsandbytes: pip install bitsandbytes")
    tied = make("qwen2", tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "base")
    chosen = {kind: True} if kind in ("dora", "rslora") else {"quantize": "nf4"} if kind == "nf4" else {}
    lora = LoraSettings(rank=4, targets=ENDS[ends], **chosen)
    settings = ModelSettings(lora=lora, precision="float32")
    policy = disturb(load_policy(str(tmp_path / "base"), settings, seed=0)).eval()
    assert shares_ends(policy.model)
    with torch.no_grad():
        expected = policy(pack([GROUP])).logps
        policy.save(tmp_path / "best")
        assert torch.equal(policy(pack([GROUP])).logps, expected)
        for folder in (tmp_path / "best", tmp_path / "best" / "adapter"):
            read = load_policy(str(folder)).eval()
            torch.testing.assert_close(read(pack([GROUP])).logps, expected, rtol=0, atol=1e-4)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "best", attn_implementation="eager")
        torch.testing.assert_close(single_logps(plain, [GROUP]), expected, rtol=0, atol=1e-4)
    assert plain.config.tie_word_embeddings is shares_ends(plain) is (ends == "neither")
    assert torch.equal(policy.model.get_input_embeddings().weight, tied.get_input_embeddings().weight)


def test_a_scoring_head_takes_no_adapter(tmp_path: Path) -> None:
    """It is trained itself; wrapped by one it would be taken for an encoder's."""
    source = save("qwen2", tmp_path)
    with pytest.raises(TrimtabError, match="the scoring head takes no adapter"):
        load_reward_model(source, ModelSettings(lora=LoraSettings(targets=("q_proj", "score"))))
    model = disturb_all(load_reward_model(source, ModelSettings(lora=LoraSettings(targets=("embed_tokens",)))))
    model.model.config.pad_token_id = 0
    model.save(tmp_path / "best")
    groups = pack([for_scoring(GROUP)])
    with torch.no_grad():
        torch.testing.assert_close(
            load_reward_model(str(tmp_path / "best"))(groups), model(groups), rtol=0, atol=1e-4
        )


def disturb_all(model: Any) -> Any:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1
    return model.eval()


def test_an_adapter_is_trained_further_from_where_it_was(tmp_path: Path) -> None:
    base = save("qwen2", tmp_path / "base")
    policy = disturb(load_policy(base, WITH_LORA)).eval()
    policy.save(tmp_path / "best")
    source = str(tmp_path / "best" / "adapter")
    further, read = load_policy(source, seed=0), load_policy(source)
    with torch.no_grad():
        expected = policy(pack([GROUP])).logps
        assert torch.equal(further.eval()(pack([GROUP])).logps, expected)
        torch.testing.assert_close(read.eval()(pack([GROUP])).logps, expected, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in further.parameters() if p.requires_grad) == 2880
    assert read.adapter is None
    # The adapter is not new: the reference's key must know it.
    assert hash_weights(further.starting_state()) != hash_weights(plain_state(further.model))
    with pytest.raises(TrimtabError, match="leave 'lora' out"):
        load_policy(source, WITH_LORA)


def test_a_reference_shares_what_is_frozen_and_stays_as_it_was(tmp_path: Path) -> None:
    policy = disturb(load_policy(save("qwen2", tmp_path), WITH_LORA)).eval()
    reference = frozen_copy(policy)
    ours, theirs = dict(policy.named_parameters()), dict(reference.named_parameters())
    for name, weight in ours.items():
        assert (weight is theirs[name]) is (not weight.requires_grad), name
    with torch.no_grad():
        before = reference(pack([GROUP])).logps
        disturb(policy, seed=2)
        assert torch.equal(reference(pack([GROUP])).logps, before)
        assert (policy(pack([GROUP])).logps - before).abs().max() > 1e-3
    assert not any(p.requires_grad for p in reference.parameters())


def test_a_reward_models_head_is_trained_itself(tmp_path: Path) -> None:
    source = save("qwen2", tmp_path / "base")
    model = load_reward_model(source, WITH_LORA, seed=0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert "model.score.weight" in trained
    assert all("lora_" in name or name == "model.score.weight" for name in trained)
    model.model.config.pad_token_id = 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in trained:
                weight += 0.1
    model.save(tmp_path / "best")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "best")
    assert torch.equal(plain.score.weight, model.model.score.weight)
    assert plain.config.vocab_size == VOCABULARY
    q = plain.model.layers[0].self_attn.q_proj.weight - make("qwen2").model.layers[0].self_attn.q_proj.weight
    assert torch.linalg.matrix_rank(q, tol=1e-4) <= 4
    assert q.abs().max() > 0


def test_an_adapter_depends_on_its_base_and_its_pickle_is_refused(tmp_path: Path) -> None:
    base = save("qwen2", tmp_path / "base")
    load_policy(base, WITH_LORA).save(tmp_path / "best")
    source = tmp_path / "best" / "adapter"
    before = hash_model(str(source))
    assert hash_model(base) == hash_source(base)
    make("qwen2", 1).save_pretrained(base)
    assert hash_model(str(source)) != before
    torch.save(load_file(source / "adapter_model.safetensors"), source / "adapter_model.bin")
    (source / "adapter_model.safetensors").unlink()
    with pytest.raises(TrimtabError, match=r"pickled \(adapter_model.bin\).*allow_pickle=true"):
        load_policy(str(source))
    assert load_policy(str(source), ModelSettings(allow_pickle=True)).adapter is None


@pytest.mark.filterwarnings("ignore:mamba")
def test_a_state_space_model_takes_adapters_where_peft_can(tmp_path: Path) -> None:
    """all-linear holds out_proj, whose weight Mamba's kernels read around any adapter: peft refuses."""
    source = save("mamba", tmp_path)
    with pytest.raises(TrimtabError, match=r"lora\.targets: .*out_proj.*such as \[in_proj\]"):
        load_policy(source, WITH_LORA)
    policy = disturb(load_policy(source, ModelSettings(lora=LoraSettings(rank=4, targets=("in_proj",))))).eval()
    with torch.no_grad():
        found, expected = policy(pack([GROUP])).logps, single_logps(merged(policy.adapter), [GROUP])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
        assert (found - single_logps(make("mamba"), [GROUP])).abs().max() > 1e-3
