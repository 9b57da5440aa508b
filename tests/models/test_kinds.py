"""Folders of every kind: what serves is read, and what does not is refused in one line that says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.families import make
from trimtab.data.adapters import tokenizer_source
from trimtab.data.chat import load_tokenizer
from trimtab.errors import TrimtabError, reason_of
from trimtab.models.kinds import check_model_source, kind_of
from trimtab.models.loading import load_policy
from trimtab.models.lora import hash_model
from trimtab.models.policy import Policy
from trimtab.models.reward_model import load_reward_model
from trimtab.models.settings import ModelSettings
from trimtab.notices import collected
from trimtab.plan.memory import load_config

SIZES = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.tensor([[3, 4, 5, 6, 60, 7]])
ENCODER_DECODER = {
    "vocab_size": 61, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
VISION = {
    "text_config": SIZES | {"num_key_value_heads": 1, "head_dim": 12},
    "vision_config": {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}  # fmt: skip
Change = Callable[[Path], Any]


def qwen(tied: bool = True, head: str = "ForCausalLM", **other: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.Qwen2Config(**SIZES | {"num_key_value_heads": 1, "tie_word_embeddings": tied} | other)
        return getattr(transformers, f"Qwen2{head}")(config)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base (tied), untied, adapter (on base)."""
    root = tmp_path_factory.mktemp("folders")
    qwen().save_pretrained(root / "base")
    qwen(tied=False).save_pretrained(root / "untied")
    put_adapter(root / "adapter", root / "base")
    return root


def put_adapter(folder: Path, base: Path, kind: Any = None, model: Any = None, **named: Any) -> Any:
    """An adapter as after training, saved by peft alone. Returns peft's model, unmerged."""
    named = named or {"target_modules": ["q_proj"]}
    config = (kind or peft.LoraConfig)(task_type=named.pop("task_type", "CAUSAL_LM"), **named)
    if kind is None:
        config.r = 2
    if model is None:
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
    held = peft.get_peft_model(model, config)
    held.peft_config["default"].base_model_name_or_path = str(base)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in held.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    held.save_pretrained(folder)
    return held.eval()


def config(**change: Any) -> Change:
    """Sets settings of config.json; ... takes one away."""

    def changed(folder: Path, file: str = "config.json") -> None:
        new = json.loads((folder / file).read_text()) | change
        (folder / file).write_text(json.dumps({k: v for k, v in new.items() if v is not ...}))

    return changed


def adapter_config(**change: Any) -> Change:
    return lambda folder: config(**change)(folder, "adapter_config.json")  # type: ignore[call-arg]


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def changed(folder: Path) -> None:
        (file,) = folder.glob("*.safetensors")
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return changed


def put(name: str, content: bytes | None) -> Change:
    return lambda folder: (folder / name).unlink() if content is None else (folder / name).write_bytes(content)


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def linked(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/nowhere/there")


def sharded(folder: Path) -> None:
    shutil.rmtree(folder)
    qwen().save_pretrained(folder, max_shard_size="10KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()


def nan(name: str) -> Change:
    def with_nan(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        next(value for key, value in state.items() if name in key).view(-1)[0] = float("nan")
        return state

    return weights(with_nan)


def beside(folder: Path) -> None:
    for file in (folder.parent.parent / "adapter").iterdir():
        shutil.copy(file, folder)


def model(make: Callable[[], Any]) -> Change:
    def replaced(folder: Path) -> None:
        shutil.rmtree(folder)
        make().save_pretrained(folder)

    return replaced


CLASSIFIER = r"no language model .* but a sequence classifier .*goes to --reward"
WRONG: dict[str, tuple[str, Change, str]] = {
    # name: what it is made from, what is done to it, what is said of it as a policy
    "bert": (
        "base", model(lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))), "but an encoder",
    ),
    "bert without a name": ("bert", config(architectures=None), "but an encoder"),
    "bart": (
        "base",
        model(lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(**ENCODER_DECODER))),
        "but an encoder-decoder",
    ),
    "vision": (
        "base",
        model(lambda: transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(**VISION))),
        "images or sound.*Save its language model alone",
    ),
    "embeddings": ("base", model(lambda: qwen(head="Model")), "but a backbone without a head"),
    "classifier": ("base", model(lambda: qwen(head="ForSequenceClassification", num_labels=1)), CLASSIFIER),
    "three labels": ("base", model(lambda: qwen(head="ForSequenceClassification", num_labels=3)), CLASSIFIER),
    "token classifier": ("base", model(lambda: qwen(head="ForTokenClassification")), "for another task"),
    "questions": ("base", model(lambda: qwen(head="ForQuestionAnswering")), "for another task"),
    "gguf": (
        "base", lambda f: (put("model.safetensors", None)(f), put("q4.gguf", b"GGUF")(f)),
        "q4.gguf: a GGUF file that cannot be read",
    ),
    "quantised": ("base", config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
    "whole numbers": (
        "base", weights(lambda s: {k: v.to(torch.int8) for k, v in s.items()}), r"whole numbers \(I8\)",
    ),
    "shard gone": ("base", sharded, r"lacks model-00002-of-\d+.safetensors, which model.safetensors.index.json"),
    "index of nothing": (
        "base", lambda f: (put("model.safetensors", None)(f), put("model.safetensors.index.json", b"[1]")(f)),
        "no weights",
    ),
    "cut": ("base", cut, r"model.safetensors \(\d+ bytes\) cannot be read: .*copy it again"),
    "zero bytes": ("base", put("model.safetensors", b""), r"model.safetensors \(0 bytes\) cannot be read"),
    "a pointer": ("base", put("model.safetensors", b"version https://git-lfs"), r"cannot be read: .*header"),
    "a link to nothing": ("base", linked, "model.safetensors is a link to /nowhere/there"),
    "config of words": ("base", put("config.json", b"hello"), "config.json cannot be read: Expecting value"),
    "config of a list": ("base", put("config.json", b"[1]"), "config.json holds no settings"),
    "config with a BOM": ("base", put("config.json", b"\xef\xbb\xbf{}"), "config.json cannot be read: .*BOM"),
    "unknown type": ("base", config(model_type="nosuch"), "model type `nosuch`"),
    "other width": ("base", config(hidden_size=48), "embed_tokens.weight is 61×24 in the weights and 61×48"),
    "other vocabulary": ("base", config(vocab_size=70), "embed_tokens.weight is 61×24 in the weights and 70×24"),
    "more layers": ("base", config(num_hidden_layers=3, layer_types=...), "lack 12 tensors"),
    "fewer layers": ("base", config(num_hidden_layers=1, layer_types=...), r"layers that its config.json does not"),
    "no head": ("base", config(tie_word_embeddings=False), "lm_head.weight.*say tie_word_embeddings: true"),
    "nan": ("base", nan("norm"), r"model.safetensors: tensor model.layers.0.\w+norm.weight has 1 of 24 numbers"),
    "both": ("base", beside, "holds a model .*and adapter_config.json beside it"),
    "prefixes": (
        "adapter", adapter_config(peft_type="PREFIX_TUNING", num_virtual_tokens=4), "of kind PREFIX_TUNING, which",
    ),
    "kind unknown": ("adapter", adapter_config(peft_type="NOSUCH"), "of kind NOSUCH .*does not know"),
    "base gone": ("adapter", adapter_config(base_model_name_or_path="/gone/m"), "/gone/m, the base of .*no such"),
    "no base": ("adapter", adapter_config(base_model_name_or_path=None), "names no base model"),
    "task of another kind": ("adapter", adapter_config(task_type="TOKEN_CLS"), "adapter of a model for another"),
    "task SEQ_CLS": ("adapter", adapter_config(task_type="SEQ_CLS"), "adapter of a sequence classifier .SEQ_CLS"),
    "list": ("adapter", put("adapter_config.json", b"[]"), "adapter_config.json cannot be read: it is a list"),
    "adapter's nan": ("adapter", nan("lora_A"), r"adapter_model.safetensors: tensor base_model\S+ has 1 of 48"),
    "half": (
        "adapter", weights(lambda s: dict(sorted(s.items())[:2])), r"lacks base_model\.model.*layers\.1.*\(2 such",
    ),
    "no weights": ("adapter", put("adapter_model.safetensors", None), "no weights .adapter_model.safetensors"),
    "no activation": ("adapter", adapter_config(alora_invocation_tokens=[1]), "an activated LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_policy_is_refused_in_one_line(name: str, places: Path, tmp_path: Path) -> None:
    origin, change, message = WRONG[name]
    folder = tmp_path / "it"
    if origin == "bert":
        WRONG["bert"][1](shutil.copytree(places / "base", folder))
    else:
        shutil.copytree(places / origin, folder)
        if name == "both":
            folder = shutil.copytree(folder, places / "both" / "it")
    change(folder)
    for load in (load_policy, lambda source: load_policy(source, seed=0)):
        with pytest.raises(TrimtabError, match=message) as found:
            load(str(folder))
        assert "\n" not in str(found.value)
        assert str(folder) in str(found.value)


def test_an_adapter_on_itself_or_on_another_shape(places: Path, tmp_path: Path) -> None:
    for name, base, message in (
        ("circle", tmp_path / "circle", "a circle"),
        ("wide", tmp_path / "wide-base", "size mismatch for base_model.*lora_A"),
        ("deep", tmp_path / "short-base", r"for which there is no place, base_model\.model\.model\.layers\.1"),
        ("classifier", tmp_path / "classifier-base", "of task CAUSAL_LM, but its base .* is a sequence classifier"),
    ):
        shutil.copytree(places / "adapter", tmp_path / name)
        adapter_config(base_model_name_or_path=str(base))(tmp_path / name)
        if name == "wide":
            qwen(hidden_size=48).save_pretrained(base)
        elif name == "deep":
            qwen(num_hidden_layers=1).save_pretrained(base)
        elif name == "classifier":
            qwen(head="ForSequenceClassification", num_labels=1).save_pretrained(base)
        with pytest.raises(TrimtabError, match=message) as found:
            load_policy(str(tmp_path / name))
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "float8_e4m3fn"])
def test_weights_of_other_floats_are_read_as_they_stand(kind: str, places: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(places / "base", tmp_path / "it")
    dtype = getattr(torch, kind)
    weights(lambda state: {k: v.to(dtype) for k, v in state.items()})(folder)
    read = load_policy(str(folder)).model.state_dict()
    for name, value in load_file(folder / "model.safetensors").items():
        assert torch.equal(read[name], value.float())


def test_weights_without_a_use_are_named(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(places / "base", tmp_path / "it")
    weights(lambda state: state | {"v_head.weight": torch.zeros(2)})(folder)
    load_policy(str(folder))
    assert "its weights have v_head.weight, which no part of it uses" in capsys.readouterr().err


def test_a_head_of_its_own_is_kept_whatever_the_config_says(places: Path, tmp_path: Path) -> None:
    """transformers leaves the two apart where both are there; the config that is saved must say so, or a reader of
    an earlier version would tie them."""
    folder = shutil.copytree(places / "untied", tmp_path / "it")
    config(tie_word_embeddings=True)(folder)
    read, expected = load_policy(str(folder)), load_policy(str(places / "untied"))
    assert torch.equal(read.model.lm_head.weight, expected.model.lm_head.weight)
    read.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")


def logps(model: Any) -> torch.Tensor:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.log_softmax(-1)
    return found


ADAPTERS: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "pattern": {"target_modules": r".*\.(q_proj|embed_tokens)|lm_head"},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "some embeddings": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    "no task": {"target_modules": ["q_proj"], "task_type": None},
    "ia3": {
        "kind": peft.IA3Config,
        "target_modules": ["k_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    },
    "vera": {"kind": peft.VeraConfig, "target_modules": ["q_proj"], "r": 4},
    "resized": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_adapters_are_what_peft_computes(name: str, places: Path, tmp_path: Path) -> None:
    """Read merged, trained further and saved, and as a reward model's start: what peft computes unmerged."""
    start = transformers.AutoModelForCausalLM.from_pretrained(places / "base")
    if name == "resized":
        start.resize_token_embeddings(70)
    held = put_adapter(tmp_path / "it", places / "base", model=start, **dict(ADAPTERS[name]))
    expected, source = logps(held), str(tmp_path / "it")
    read = load_policy(source)
    torch.testing.assert_close(logps(read.model), expected, rtol=0, atol=1e-5)
    load_policy(source, seed=0).save(tmp_path / "best")
    for folder in (tmp_path / "best", tmp_path / "best" / "adapter"):
        torch.testing.assert_close(logps(load_policy(str(folder)).model), expected, rtol=0, atol=1e-5)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "best")
    torch.testing.assert_close(logps(plain), expected, rtol=0, atol=1e-5)
    tied = plain.lm_head.weight.data_ptr() == plain.model.embed_tokens.weight.data_ptr()
    assert plain.config.tie_word_embeddings is tied
    rewards = [load_reward_model(folder, seed=3).model for folder in (source, str(tmp_path / "best"))]
    for one in rewards:
        one.config.pad_token_id = 0
        one.set_attn_implementation("eager")
    with torch.no_grad():
        first, second = (one.eval()(input_ids=IDS).logits for one in rewards)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_an_adapter_of_a_classifier_is_a_reward_model_and_no_policy(places: Path, tmp_path: Path) -> None:
    for labels in (1, 3):
        base = transformers.AutoModelForSequenceClassification.from_pretrained(places / "base", num_labels=labels)
        base.config.pad_token_id = 0
        task = {"task_type": "SEQ_CLS", "target_modules": ["q_proj"]}
        held = put_adapter(tmp_path / str(labels), places / "base", model=base, **task)
        if labels == 1:
            expected = held(input_ids=IDS).logits
    source = str(tmp_path / "1")
    assert kind_of(source).name == "classifier"
    read = load_reward_model(source, new_head=False)
    read.model.config.pad_token_id = 0
    read.model.set_attn_implementation("eager")
    torch.testing.assert_close(read.model(input_ids=IDS).logits, expected, rtol=0, atol=1e-5)
    with pytest.raises(TrimtabError, match="adapter of a sequence classifier"):
        load_policy(source)
    with pytest.raises(TrimtabError, match="a classifier with 3 labels"):
        load_reward_model(str(tmp_path / "3"), new_head=False)
    weights(lambda state: {k: v for k, v in state.items() if "score" not in k})(tmp_path / "1")
    with pytest.raises(TrimtabError, match="without its head, which would be random"):
        load_reward_model(source)
    with pytest.raises(TrimtabError, match="no reward model but an adapter of a causal language model"):
        load_reward_model(str(places / "adapter"), new_head=False)


def test_an_adapter_on_an_adapter_is_both(places: Path, tmp_path: Path) -> None:
    put_adapter(tmp_path / "second", places / "base", target_modules=["k_proj"])
    adapter_config(base_model_name_or_path=str(places / "adapter"))(tmp_path / "second")
    both = load_policy(str(tmp_path / "second")).model
    for part, source in (("q_proj", places / "adapter"), ("k_proj", tmp_path / "second")):
        other = tmp_path / part
        shutil.copytree(source, other)
        adapter_config(base_model_name_or_path=str(places / "base"))(other)
        name = f"model.layers.0.self_attn.{part}.weight"
        assert torch.equal(both.get_parameter(name), load_policy(str(other)).model.get_parameter(name))
    assert hash_model(str(tmp_path / "second")).count("+") == 2


def test_an_adapters_tokenizer_is_its_bases_where_it_brings_none(
    places: Path, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    base = shutil.copytree(places / "base", tmp_path / "base")
    make_tokenizer().save_pretrained(base)
    source = shutil.copytree(places / "adapter", tmp_path / "adapter")
    adapter_config(base_model_name_or_path="../base")(source)  # beside the adapter, wherever the command runs
    assert Path(tokenizer_source(str(source))).resolve() == base
    assert len(load_tokenizer(str(source))) == len(make_tokenizer())
    assert torch.equal(load_policy(str(source)).model.lm_head.weight, load_policy(str(base)).model.lm_head.weight)
    make_tokenizer(special=("<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|more|>")).save_pretrained(source)
    assert tokenizer_source(str(source)) == str(source)


def test_the_home_folder(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(places))
    for source in ("~/base", "~/adapter"):
        assert load_policy(source).model.config.vocab_size == 61
        load_reward_model(source)
        load_config(source)
    with pytest.raises(TrimtabError, match=f"{places}/none: no such folder"):
        check_model_source("~/none", role="policy")


def test_a_name_that_is_nothing_is_the_models_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no connection")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    with pytest.raises(TrimtabError, match=r"^model nosuch: there is no such folder here, and from the hub: no c"):
        check_model_source("nosuch", role="policy")
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("trimtab.models.hub.getproxies", dict)
    monkeypatch.setattr("trimtab.models.hub.socket.getaddrinfo", offline)  # known at once, not in a minute
    with pytest.raises(TrimtabError, match=r"huggingface\.co cannot be found: no network"):
        check_model_source("nosuch", role="policy")


def test_plan_asks_for_the_kind_too(places: Path, tmp_path: Path) -> None:
    qwen(head="ForSequenceClassification", num_labels=1).save_pretrained(tmp_path)
    with pytest.raises(TrimtabError, match="but a sequence classifier"):
        load_config(str(tmp_path))
    assert load_config(str(tmp_path), "start of a reward model").num_labels == 1


def test_too_little_memory_is_said(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ):

        def full(*_: Any, thrown: Exception = error, **__: Any) -> Any:
            raise thrown

        for name, load in (("CausalLM", load_policy), ("SequenceClassification", load_reward_model)):
            monkeypatch.setattr(f"transformers.AutoModelFor{name}.from_pretrained", full)
            with pytest.raises(TrimtabError, match=r"cannot be loaded as .*: there is not enough memory for it"):
                load(str(places / "base"))


def test_a_librarys_reason_is_one_line_that_says_something() -> None:
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(ValueError("\nneeds one of:\n (1) a\n (2) b")) == "needs one of: (1) a (2) b"
    assert reason_of(KeyError("score")) == "KeyError: 'score'"
    assert reason_of(ValueError()) == "ValueError"
    assert len(reason_of(ValueError("x:\n" + "y" * 999))) < 410


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"),
         r"in parts \(model-00001-of-00002.safetensors, …\), and model.safetensors.index.json, .* is not there"),
        (lambda f: (f / "model.safetensors").rename(f / "model.fp16.safetensors"),
         "are called model.fp16.safetensors, .* call them model.safetensors"),
        (put("generation_config.json", b"hello"), "generation_config.json cannot be read: Expecting value"),
        (put("generation_config.json", b"[]"), "generation_config.json cannot be read: it holds no settings"),
    ],
)  # fmt: skip
def test_files_beside_the_config(change: Change, message: str, places: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(places / "base", tmp_path / "it")
    change(folder)
    with pytest.raises(TrimtabError, match=message):
        load_policy(str(folder))


def test_a_pickle_that_was_cut_is_named(places: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(places / "base", tmp_path / "it")
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(400)}, folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:500])
    with pytest.raises(TrimtabError, match=r"pytorch_model.bin \(500 bytes\) is damaged"):
        load_policy(str(folder), ModelSettings(allow_pickle=True))


def test_padded_rows_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The command hushes Python's own warnings."""
    with collected() as run:
        Policy(make("gpt2"))
        Policy(make("qwen2"))
    assert [line.split(":")[0] for line in run.lines] == ["gpt2"]
    assert "using padded rows" in capsys.readouterr().err
