"""llama.cpp by its wheel xllamacpp, as a program of its own: a request on standard input, an answer on the output.

    {"model": FILE, "texts": [...], "prompts": [[ids]], "chats": [[messages]], "tokens": N}

Keys and values are kept in float32, and attention is computed without its fused kernel, so that an f32 file
computes as transformers does.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any


def main() -> None:
    said = os.dup(1)
    os.dup2(2, 1)  # llama.cpp's own words are no answer
    import xllamacpp  # type: ignore[import-not-found]

    asked = json.loads(sys.stdin.read())
    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.n_ctx, params.n_parallel, params.warmup = 2048, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)

    def tokenized(text: str) -> Any:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["tokens"]

    greedy = {"temperature": 0.0, "max_tokens": asked.get("tokens", 64), "cache_prompt": False}

    def likeliest(ids: list[int]) -> Any:
        once = greedy | {"max_tokens": 1, "logprobs": 5}
        answer = server.handle_completions({"prompt": ids, **once})["choices"][0]
        steps = answer["logprobs"]["content"] if answer.get("logprobs") else []
        return {token["id"]: token["logprob"] for step in steps[:1] for token in step["top_logprobs"]}

    def answered(messages: list[Any]) -> Any:
        answer = server.handle_chat_completions({"messages": messages, **greedy})
        choice = answer["choices"][0]
        return {
            "text": choice["message"]["content"], "ended": choice["finish_reason"],
            "prompt_tokens": answer["usage"]["prompt_tokens"],
        }  # fmt: skip

    out = {
        "tokens": [tokenized(text) for text in asked.get("texts", [])],
        "likeliest": [likeliest(ids) for ids in asked.get("prompts", [])],
        "answers": [answered(messages) for messages in asked.get("chats", [])],
    }
    os.write(said, json.dumps(out).encode())
    os._exit(0)  # the server's threads would be waited for


if __name__ == "__main__":
    main()
