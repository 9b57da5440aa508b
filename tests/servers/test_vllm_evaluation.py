"""Evaluation through vLLM: greedy, sampled and by its own beam search, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.records import read_records
from trimtab.evaluation import generate as module
from trimtab.evaluation.generate import Generated, generate, stop_tokens
from trimtab.evaluation.settings import Decoding
from trimtab.models.loading import load_policy
from trimtab.rollout.sampler import VLLMSettings

pytestmark = pytest.mark.vllm

CAP = 24
GIVEN: dict[str, Any] = {"engine": "vllm", "vllm": VLLMSettings(cache_gib=0.25), "max_new_tokens": CAP}


@pytest.fixture(scope="module")
def ready(vllm_model: Path, vllm_pairs: Path) -> tuple[Any, ChatFormat, list[Any], list[int]]:
    """Model, format, 40 prompts and the tokens that end a completion."""
    model = load_policy(str(vllm_model)).eval().model
    chat = ChatFormat(load_tokenizer(str(vllm_model)))
    prompts = [record.prompt for record in read_records(str(vllm_pairs))][:40]
    return model, chat, prompts, stop_tokens(model, chat)


def rows(ready: Any, monkeypatch: pytest.MonkeyPatch, decoding: Decoding) -> list[list[int]]:
    """New tokens of each prompt, as `generate` turns them into text."""
    model, chat, prompts, stops = ready
    made: list[tuple[Generated, list[int]]] = []  # in the order in which they are decoded
    as_text = module._as_text

    def watched(chat: ChatFormat, row: list[int], stops: list[int]) -> Generated:
        made.append((as_text(chat, row, stops), row))
        return made[-1][0]

    with monkeypatch.context() as patch:
        patch.setattr(module, "_as_text", watched)
        out = generate(model, chat, prompts, decoding, stops)
    seen = [next(row for text, row in made if text is one) for one in out]
    assert [one.tokens for one in out] == [len(until_stop(row, stops)) for row in seen]
    assert [one.terminated for one in out] == [any(token in stops for token in row) for row in seen]
    return [until_stop(row, stops) for row in seen]


def until_stop(row: list[int], stops: list[int]) -> list[int]:
    end = next((i for i, token in enumerate(row) if token in stops), len(row) - 1)
    return row[: end + 1]


@torch.no_grad()
def total(model: Any, prompt: list[int], row: list[int]) -> float:
    """log π(y|x), by transformers alone."""
    logits_TV = model(input_ids=torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
    return float(logits_TV.log_softmax(-1)[torch.arange(len(row)), torch.tensor(row)].sum())


def test_greedy_is_transformers_up_to_ties(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the two part, transformers' two best tokens are as good as equal."""
    model, chat, prompts, _ = ready
    plain = Decoding(strategy="greedy", max_new_tokens=CAP, batch_size=1)
    ours = rows(ready, monkeypatch, Decoding(strategy="greedy", **GIVEN))
    # Batches of transformers' come in the order of length; one of each is made here.
    theirs = [generate(model, chat, [prompt], plain, ready[3])[0] for prompt in prompts]
    texts = [chat.tokenizer.decode(row[:-1] if row[-1] in ready[3] else row) for row in ours]
    same = sum(text == one.text for text, one in zip(texts, theirs, strict=True))
    assert same >= 0.9 * len(prompts)
    for prompt, row in zip(prompts, ours, strict=True):
        ids = chat.prompt_ids(prompt)
        with torch.no_grad():
            logits_TV = model(input_ids=torch.tensor([ids + row])).logits[0, len(ids) - 1 : -1]
        chosen_T = logits_TV[torch.arange(len(row)), torch.tensor(row)]
        assert float((logits_TV.max(-1).values - chosen_T).max()) <= 1e-3


def test_sampling_repeats_and_follows_top_p(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows(ready, monkeypatch, Decoding(strategy="sample", **GIVEN))
    assert rows(ready, monkeypatch, Decoding(strategy="sample", **GIVEN)) == first
    assert rows(ready, monkeypatch, Decoding(strategy="sample", seed=1, **GIVEN)) != first
    greedy = rows(ready, monkeypatch, Decoding(strategy="greedy", **GIVEN))
    assert first != greedy
    assert rows(ready, monkeypatch, Decoding(strategy="sample", top_p=1e-6, **GIVEN)) == greedy


def test_beam_search(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a length penalty, one beam finds nothing less probable than greedy's answer, which it goes
    through (endings that are second best may beat it), and four beams hardly ever do. They end at any of the
    stop tokens. A penalty that favours length makes them longer."""
    model, chat, prompts, stops = ready
    ids = [chat.prompt_ids(prompt) for prompt in prompts]

    def best(**given: Any) -> list[list[int]]:
        return rows(ready, monkeypatch, Decoding(strategy="beam", **given, **GIVEN))

    def totals(found: list[list[int]]) -> torch.Tensor:
        return torch.tensor([total(model, p, row) for p, row in zip(ids, found, strict=True)])

    greedy = totals(rows(ready, monkeypatch, Decoding(strategy="greedy", **GIVEN)))
    assert (totals(best(num_beams=1, length_penalty=0.0)) >= greedy - 1e-3).all()
    four = best(num_beams=4, length_penalty=0.0)
    better = totals(four) - greedy
    assert (better >= -1e-3).float().mean() >= 0.9
    assert better.mean() > 0.1
    assert len({row[-1] for row in four} & set(stops)) > 1
    assert all(not set(row[:-1]) & set(stops) for row in four)
    longer = best(num_beams=4, length_penalty=2.0)
    assert sum(map(len, longer)) > sum(map(len, four))


def test_the_signature_names_the_engine() -> None:
    import vllm

    signature = Decoding(strategy="beam", **GIVEN).signature()
    assert signature.startswith(f"engine:vllm-{vllm.__version__}|strategy:beam|")
    assert "batch" not in signature
    assert Decoding().signature().startswith("engine:transformers-")
