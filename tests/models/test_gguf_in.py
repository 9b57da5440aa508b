"""A GGUF file is read as the model that it was written from: weights, config, tokens, stops; and once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from models.gguf_files import FAMILIES, as_gguf, byte_level, sentencepiece, tensors_of, write_original
from trimtab.cli import app
from trimtab.data.tokenizer import first_difference, load_tokenizer, probes_of
from trimtab.errors import TrimtabError
from trimtab.files import read_json
from trimtab.models.gguf import place, tokens
from trimtab.models.gguf.place import VARIABLE, gguf_of, model_place, origin_of
from trimtab.models.kinds import check_model_source
from trimtab.models.loading import load_policy
from trimtab.models.lora import hash_model

IDS = torch.arange(3, 60)[None] * 5 % 300 + 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def logits(folder: str | Path) -> torch.Tensor:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.float32
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_logits_are_the_originals(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 nothing is lost: positions, windows, soft caps, heads' size, biases, tied ends."""
    original = write_original(tmp_path / "original", family)
    before, after = logits(original), logits(model_place(str(as_gguf(original, monkeypatch))))
    assert before.abs().max() > 0.5
    assert torch.allclose(before, after, atol=1e-5), (before - after).abs().max()


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", "q8_0"),
        ("llama3", "q4_1"),
        ("qwen2", "q4_0"),
        ("qwen3", "q5_1"),
        ("gemma2", "f16"),
        ("gemma3", "q5_0"),
    ],
)
def test_weights_are_ggufs_own_bit_for_bit(
    family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = as_gguf(write_original(tmp_path / "original", family), monkeypatch, kind)
    model = AutoModelForCausalLM.from_pretrained(model_place(str(file)))
    held, config = tensors_of(file), model.config
    assert origin_of(model_place(str(file))) == f"{kind.upper()}, file {file.name}"

    def halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
        return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)

    layer = model.model.layers[1]
    queries, keys = held["blk.1.attn_q.weight"], held["blk.1.attn_k.weight"]
    if family.startswith("llama"):
        queries, keys = halves(queries, config.num_attention_heads), halves(keys, config.num_key_value_heads)
    one = 1 if family.startswith("gemma") else 0
    expected = {
        layer.self_attn.q_proj: queries, layer.self_attn.k_proj: keys,
        layer.self_attn.v_proj: held["blk.1.attn_v.weight"],
        layer.self_attn.o_proj: held["blk.1.attn_output.weight"],
        layer.mlp.gate_proj: held["blk.1.ffn_gate.weight"], layer.mlp.up_proj: held["blk.1.ffn_up.weight"],
        layer.mlp.down_proj: held["blk.1.ffn_down.weight"],
        model.model.embed_tokens: held["token_embd.weight"],
        model.model.norm: held["output_norm.weight"] - one,
        layer.input_layernorm: held["blk.1.attn_norm.weight"] - one,
    }  # fmt: skip
    for module, weight in expected.items():
        assert torch.equal(module.weight.detach(), weight), module


@pytest.mark.parametrize("split", ["gpt-2", "smollm", "qwen2", "llama-bpe", "llama", "gemma"])
def test_tokens_are_the_originals(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = {"gemma": "gemma2", "qwen2": "qwen2"}.get(split, "llama")
    own = sentencepiece(split == "llama") if split in ("llama", "gemma") else byte_level(split)
    original = write_original(tmp_path / "original", family, own)
    folder = model_place(str(as_gguf(original, monkeypatch)))
    tokenizer = load_tokenizer(folder)
    texts = [*probes_of(own), "two  5", " \u00e9 e\u0301", "<think>a</think>", "the dog sat there"]
    assert first_difference(own, tokenizer, texts) is None
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == [
        own.decode(own(text)["input_ids"]) for text in texts
    ]
    assert tokenizer("a cat")["input_ids"] == own("a cat")["input_ids"]  # with bos, where there is one
    assert tokenizer.chat_template == own.chat_template
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(tokenizer, name) == getattr(own, name)
    stops = json.loads((Path(folder) / "generation_config.json").read_text())["eos_token_id"]
    assert stops == list(dict.fromkeys([own.eos_token_id, 0, 1]))  # the model's own two, and the tokenizer's first


def test_a_special_token_beyond_the_byte_alphabet_stays_whole() -> None:
    """DeepSeek's, which transformers' reader leaves to be cut into pieces."""
    held: Any = {"model": {"vocab": {"a": 0, "<ï½ľUserï½ľ>": 1}}, "added_tokens": []}
    tokens._add_respelled(held, {"tokens": ["a", "<｜User｜>"], "token_type": [1, 3]})
    assert held["model"]["vocab"] == {"a": 0, "<｜User｜>": 1}
    assert held["added_tokens"][0]["content"] == "<｜User｜>"
    assert held["added_tokens"][0]["special"]


def test_a_file_is_read_once_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    file = as_gguf(write_original(tmp_path / "original"), monkeypatch, "q8_0")
    first = model_place(str(file))
    files = {path.name: path.stat().st_mtime_ns for path in Path(first).iterdir()}
    elsewhere = tmp_path / "other" / "renamed.gguf"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(file.read_bytes())
    assert hash_model(model_place(str(elsewhere))) == hash_model(first)
    assert model_place(str(elsewhere.parent)) == model_place(str(elsewhere))  # a folder that holds it
    assert {path.name: path.stat().st_mtime_ns for path in Path(model_place(str(file))).iterdir()} == files
    assert first.startswith(str(cache / "gguf"))
    assert not list(cache.rglob("*.tmp"))


def test_of_two_processes_the_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write(folder: Path) -> None:
        (folder / "mine").touch()
        target.mkdir()
        (target / "theirs").touch()

    place._write_once(target, write)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in target.iterdir()] == ["theirs"]


def test_a_hubs_file_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(tmp_path / "held.gguf")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(place, "reach_hub", lambda *named: None)
    assert gguf_of("owner/name-GGUF/sub/name.Q4_K_M.gguf") == tmp_path / "held.gguf"
    assert asked == [("owner/name-GGUF", "sub/name.Q4_K_M.gguf")]


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(source: Path | str) -> str:
        with pytest.raises(TrimtabError) as error:
            check_model_source(str(source))
        assert "\n" not in str(error.value)
        return str(error.value)

    (tmp_path / "none.gguf").write_bytes(b"GGUF, but no more")
    assert "none.gguf: a GGUF file that cannot be read" in said(tmp_path / "none.gguf")
    assert "no such file" in said(tmp_path / "missing.gguf")
    assert "no such file" in said("missing.gguf")
    file = as_gguf(write_original(tmp_path / "original"), monkeypatch)
    both = tmp_path / "both"
    both.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (both / name).write_bytes(file.read_bytes())
    assert "holds 2 GGUF files (a.gguf, b.gguf). Name one of them" in said(both)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'trimtab[gguf]'" in said(file)


def changed(file: Path, old: bytes, new: bytes) -> Path:
    """A copy with one text of its head in place of another of the same length."""
    held = file.read_bytes()
    assert held.count(old) >= 1
    copy = file.with_name(f"changed-{new.decode()[-6:]}.gguf")
    copy.write_bytes(held.replace(old, new))
    return copy


def test_what_would_be_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = as_gguf(write_original(tmp_path / "original", "llama3"), monkeypatch)
    lost = changed(file, b"blk.1.attn_k.weight", b"blk.1.attn_x.weight")
    unknown = changed(file, b"llama", b"lamas")
    with pytest.raises(TrimtabError, match=r"cannot be read|not supported"):
        model_place(str(unknown))
    with pytest.raises(TrimtabError, match=r"without model\.layers\.1\.self_attn\.k_proj\.weight"):
        model_place(str(lost))
    split = as_gguf(write_original(tmp_path / "two"), monkeypatch)
    with pytest.raises(TrimtabError, match="called 'gpt-x', which is not read"):
        model_place(str(changed(split, b"gpt-2", b"gpt-x")))
    with pytest.raises(TrimtabError, match="positions are scaled by su99"):
        model_place(str(changed(split, b"yarn", b"su99")))


def test_extra_tensors_are_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers drops a tensor that its model has no place for; the model would not be the file's."""
    file = as_gguf(write_original(tmp_path / "original", "llama_biased"), monkeypatch)
    one = changed(file, b"blk.0.attn_output.bias", b"blk.0.attn_outpux.bias")  # then q, k and v have none either
    with pytest.raises(TrimtabError, match="some would be lost"):
        model_place(str(one))


def test_a_stage_starts_from_a_gguf_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_jsonl: Callable[..., Path]
) -> None:
    file = as_gguf(write_original(tmp_path / "original", "llama", byte_level("smollm")), monkeypatch, "q8_0")
    rows = write_jsonl([{"prompt": f"the {i}", "completion": "cat sat"} for i in range(4)])
    named = ["--model", str(file), "--data", str(rows), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["sft", *named, "--set", "max_steps=1"])
    assert done.exit_code == 0, done.output
    card = (tmp_path / "run" / "best" / "README.md").read_text()
    assert f"(GGUF Q8_0, file {file.name}, its weights read to float32)" in card.replace("\\", "")
    assert read_json(tmp_path / "run" / "done.json", "")["sources"]["gguf"] == f"Q8_0, file {file.name}"
    assert load_policy(str(tmp_path / "run" / "best")).model.config.model_type == "llama"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "best")
    assert tokenizer.tokenize("two  5") == byte_level("smollm").tokenize("two  5")
    assert read_json(tmp_path / "run" / "stage.json", "")["model"] == hash_model(model_place(str(file)))
