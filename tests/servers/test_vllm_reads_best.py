"""vLLM reads best/ as transformers does: the same log-probabilities, the same tokens, and it stops by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.layouts4 import LAYOUTS, train_to_stop, write_layout
from training.stranger import ROW, TEXTS, read
from trimtab.rollout.vllm import _apart, load_vllm

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("layout", LAYOUTS)
def test_vllm_reads_what_was_saved(layout: str, tmp_path: Path) -> None:
    start = write_layout(tmp_path / "start", layout)
    best = train_to_stop(start, tmp_path / "sft")
    ours = read(str(best))
    vllm = load_vllm()
    with _apart():
        llm = vllm.LLM(
            str(best), dtype="float32", max_model_len=128, enforce_eager=True, kv_cache_memory_bytes=2**28,
            distributed_executor_backend="uni",
        )  # fmt: skip
        assert [llm.get_tokenizer()(text)["input_ids"] for text in TEXTS] == ours["ids"]
        [of_row] = llm.generate(
            [{"prompt_token_ids": ROW}], vllm.SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False
        )
        [said] = llm.chat([[{"role": "user", "content": "What about red?"}]], use_tqdm=False)
    found = torch.tensor([of[token].logprob for of, token in zip(of_row.prompt_logprobs[1:], ROW[1:], strict=True)])
    logps = ours["logits"].float().log_softmax(-1)[torch.arange(len(ROW) - 1), torch.tensor(ROW[1:])]
    print(layout, float((found - logps).abs().max()))
    assert float((found - logps).abs().max()) <= 1e-4
    out = said.outputs[0]
    assert out.finish_reason == "stop", "by itself, with its defaults"
    assert list(out.token_ids) == ours["said"]
