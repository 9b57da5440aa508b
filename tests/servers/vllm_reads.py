"""What vLLM makes of a model folder, for a process of its own: an engine that goes takes its groups along."""

from __future__ import annotations

from typing import Any

from training.stranger import ROW, TEXTS
from trimtab.rollout.vllm import _apart, load_vllm


def read_by_vllm(folder: str) -> dict[str, Any]:
    """Token ids of TEXTS, log-probabilities of ROW but its first token, and an answer by the folder's defaults."""
    vllm = load_vllm()
    with _apart():
        llm = vllm.LLM(
            folder, dtype="float32", max_model_len=128, enforce_eager=True, kv_cache_memory_bytes=2**28,
            distributed_executor_backend="uni",
        )  # fmt: skip
        ids = [list(llm.get_tokenizer()(text)["input_ids"]) for text in TEXTS]
        [of_row] = llm.generate(
            [{"prompt_token_ids": ROW}], vllm.SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False
        )
        [said] = llm.chat([[{"role": "user", "content": "What about red?"}]], use_tqdm=False)
    logps = [of[token].logprob for of, token in zip(of_row.prompt_logprobs[1:], ROW[1:], strict=True)]
    out = said.outputs[0]
    return {"ids": ids, "logps": logps, "finish_reason": out.finish_reason, "said": list(out.token_ids)}
