"""What is exported as GGUF: the model's own weights, its template and stops, measured against it; or a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from models.gguf_files import FAMILIES, byte_level, sentencepiece, write_original
from training.toy import write_model
from trimtab.cli import app
from trimtab.data.parsing import parse
from trimtab.data.tokenizer import load_tokenizer
from trimtab.errors import TrimtabError
from trimtab.files import read_json
from trimtab.models.gguf.modelfile import go_template, modelfile
from trimtab.models.gguf.place import VARIABLE, model_place
from trimtab.models.gguf.write import write_gguf
from trimtab.recipe import Recipe
from trimtab.study.export import export_model
from trimtab.study.run import run_study

STAGE = {"batch_size": 4, "max_steps": 2, "evaluation_interval": 1, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def test_a_studys_files_are_measured(tmp_path: Path) -> None:
    model = write_model(tmp_path / "start")
    recipe = {
        "name": "small", "model": str(model), "opponent": str(model), "judge": "gold",
        "sandbox": {"train_rows": 16, "validation_rows": 8, "test_rows": 6},
        "methods": ["sft"], "sft": STAGE,
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 12}},
    }  # fmt: skip
    results = run_study(parse(Recipe, recipe, "test"), tmp_path / "run")
    out = export_model(tmp_path / "run", tmp_path / "out", "sft", gguf=["f32", "q8_0", "f32"])
    files = read_json(out / "gguf.json", "")["files"]
    assert list(files) == ["f32", "q8_0"]
    exact, rounded = files["f32"], files["q8_0"]
    assert exact["perplexity"] == exact["perplexity_of_model"] == pytest.approx(rounded["perplexity_of_model"])
    assert rounded["perplexity"] != exact["perplexity"]
    assert rounded["perplexity"] == pytest.approx(exact["perplexity"], rel=0.05)
    assert (exact["agreed"], exact["prompts"]) == (6, 6)
    assert exact["win_rate"] == exact["win_rate_of_model"] == results.methods["sft"].estimates["win_rate"].value
    low, high = exact["difference_ci95"]
    # None of six differs, which says little of other prompts (evaluation/rates.py): Clopper and Pearson's 4 % limit
    # at n* = 6 / 0.39034 = 15.371 with 0.39034 = 3.8415 / (6 + 3.8415), doubled.
    assert exact["difference"] == 0
    assert (low, high) == pytest.approx((-0.4739, 0.4739), abs=1e-4)
    assert rounded["bytes"] == (out / "out-q8_0.gguf").stat().st_size < exact["bytes"]
    card = (out / "README.md").read_text()
    assert card.index("## GGUF") < card.index("out-q8\\_0.gguf") < card.index("## Limits")
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "seed-0" / "stages" / "sft" / "best")
    after = AutoModelForCausalLM.from_pretrained(model_place(str(out / "out-f32.gguf")))
    for (name, weight), other in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(weight, other), name
    assert after.generation_config.eos_token_id == before.generation_config.eos_token_id


def test_a_stage_alone_is_measured_on_what_it_held_out(
    tiny_model_dir: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    start = write_original(tmp_path / "start", "llama")
    rows = write_jsonl([{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": "no"} for i in range(8)])
    named = ["--model", str(start), "--data", str(rows), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["sft", *named, "--set", "max_steps=1", "--set", "data.validation_rows=3"])
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(out), "--gguf", "bf16"])
    assert done.exit_code == 0, done.output
    fact = read_json(out / "gguf.json", "")["files"]["bf16"]
    assert (fact["prompts"], fact["win_rate"]) == (3, None)
    assert fact["perplexity"] == pytest.approx(fact["perplexity_of_model"], rel=0.05)
    rows.unlink()  # then the file is written all the same, and what is missing said
    words = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "more"), "--gguf", "f16"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert read_json(tmp_path / "more" / "gguf.json", "")["files"]["f16"]["perplexity"] is None
    assert "not measured" in done.output


def rendered_by_ollama(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama makes of a template of the kind that is written: Go's if, else and range, by hand."""
    system = "".join(m["content"] for m in messages if m["role"] == "system")
    head, loop = template.split("{{ range .Messages }}")
    found = re.fullmatch(r"(?s)\{\{ if \.System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}", head)
    turns = re.fullmatch(
        r'(?s)\{\{ if eq \.Role "user" \}\}(.*?)\{\{ else if eq \.Role "assistant" \}\}(.*?)'
        r"\{\{ end \}\}\{\{ end \}\}",
        loop,
    )
    assert found
    assert turns
    text = found[1].replace("{{ .System }}", system) if system else found[2]
    kinds = {"user": turns[1], "assistant": turns[2], "system": ""}
    return text + "".join(kinds[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages)


@pytest.mark.parametrize("default", [False, True])
def test_ollamas_template_is_the_files(default: bool) -> None:
    """Turn by turn what the Jinja template renders, with a default system prompt too."""
    tokenizer = byte_level("smollm")
    if default:
        tokenizer.chat_template = (
            "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
            + tokenizer.chat_template
        )
    said = [("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?")]
    template = go_template(tokenizer)
    assert template is not None
    for turns in (said, said[1:], said[1:2], said[:2]):
        messages = [{"role": role, "content": content} for role, content in turns]
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert rendered_by_ollama(template, messages) == expected
    written = modelfile("m.gguf", tokenizer, [0, 1])
    assert written.startswith('FROM ./m.gguf\nTEMPLATE """')
    assert written.endswith('PARAMETER stop "<|endoftext|>"\nPARAMETER stop "<|im_end|>"\n')


def test_a_template_that_does_more_is_not_written_for_ollama() -> None:
    tokenizer = byte_level("smollm")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{{ loop.index }}\n{% endfor %}"
    assert go_template(tokenizer) is None
    assert "# TEMPLATE: the file's chat template cannot be written" in modelfile("m.gguf", tokenizer, [0])


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3", {"attention_bias": True}, "llama.cpp's qwen3 has no biases"),
        ("qwen2", {"head_dim": 32}, "heads that are not the hidden size together"),
        ("llama", {"hidden_act": "gelu"}, "no activation gelu"),
        ("gemma2", {"query_pre_attn_scalar": 99}, "no query_pre_attn_scalar but 32"),
        ("gemma3", {"layer_types": ["full_attention"] * 6}, "other order of windows"),
        (
            "llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "scaled by dynamic",
        ),
    ],
)  # fmt: skip
def test_what_llamacpp_would_compute_otherwise_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = type(FAMILIES[family])(**FAMILIES[family].to_dict() | changes)
    monkeypatch.setitem(FAMILIES, family, config)
    own = sentencepiece(False) if family.startswith("gemma") else None
    original = write_original(tmp_path / "original", family, own)
    with pytest.raises(TrimtabError, match=message):
        write_gguf(original, tmp_path / "out.gguf", "f32")
    assert not (tmp_path / "out.gguf").exists()


def test_a_tokenizer_that_llamacpp_has_no_name_for_is_refused(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    tokenizer = byte_level("gpt-2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    original = write_original(tmp_path / "original", "llama", tokenizer)
    assert load_tokenizer(str(original)) is not None
    with pytest.raises(TrimtabError, match=r"has no name for \(Punctuation, ByteLevel\)"):
        write_gguf(original, tmp_path / "out.gguf", "f32")


def test_an_unknown_kind_is_said_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "stage" / "best").mkdir(parents=True)
    for name in ("stage.json", "done.json", "best/config.json", "best/tokenizer_config.json", "best/m.safetensors"):
        (tmp_path / "stage" / name).write_text("{}")
    with pytest.raises(TrimtabError, match="--gguf q4_k_m: written are f32, f16, bf16, q8_0"):
        export_model(tmp_path / "stage", tmp_path / "out", gguf=["q4_k_m"])
    assert not (tmp_path / "out").exists()
