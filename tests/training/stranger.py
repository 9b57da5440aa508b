"""Reads model folders with whatever transformers is on the path, and nothing of trimtab's.

`python stranger.py OUT FOLDER…`: logits of one row, tokens of texts, and what generate says with its defaults.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

ROW = [1, 9, 12, 700, 30, 44, 1500, 6, 50, 8, 2, 10, 11, 22, 33, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70]
TEXTS = ["It is 12345670.\n\nYes!  cafe\u0301 <|im_end|>\n", "What about red?", "你好 🙂 don't"]


@torch.no_grad()
def read(folder: str) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kinds = json.loads((Path(folder) / "config.json").read_text())["architectures"]
    scores = kinds[0].endswith("ForSequenceClassification")
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    model = kind.from_pretrained(folder, torch_dtype=torch.float32).eval()
    found = {
        "version": transformers.__version__,
        "logits": model(torch.tensor([ROW])).logits[0],
        "ids": [tokenizer(text)["input_ids"] for text in TEXTS],
        "class": type(tokenizer).__name__,
    }
    if not scores:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "What about red?"}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        found["said"] = model.generate(ids, max_new_tokens=40)[0, ids.shape[1] :].tolist()
        found["ends"] = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    return found


if __name__ == "__main__":
    torch.save([read(folder) for folder in sys.argv[2:]], sys.argv[1])
