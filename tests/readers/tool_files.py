"""Files as other tools write them, by hand: alpaca_eval 0.6.6, inspect-ai 0.3.285, lm-eval 0.4.13."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

ZSTD = 93


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_list(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    return path


def annotation(i: int, preference: float | None, model: str = "tiny") -> dict[str, Any]:
    """One judgement of alpaca_eval's annotations.json."""
    return {
        "instruction": f"ask {i}",
        "output_1": f"baseline {i}",
        "generator_1": "gpt4",
        "dataset": "helpful_base",
        "output_2": f"answer {i}",
        "generator_2": model,
        "annotator": "weighted_alpaca_eval_gpt4_turbo",
        "preference": preference,
        "raw_completion": {"finish_reason": "stop"},
        "time_per_example": 0.5,
    }


def lm_eval_row(i: int, score: Any, filtered: str = "none", **more: Any) -> dict[str, Any]:
    """One line of lm-eval's samples file, of a task that generates."""
    return {
        "doc_id": i,
        "doc": {"question": f"ask {i}"},
        "target": "4",
        "arguments": {"gen_args_0": {"arg_0": f"Q: ask {i}\nA:", "arg_1": {"until": ["\n"]}}},
        "resps": [[f" answer {i}"]],
        "filtered_resps": [f"answer {i}"],
        "filter": filtered,
        "metrics": ["exact_match"],
        "doc_hash": f"d{i}",
        "prompt_hash": f"p{i}",
        "target_hash": "t",
        "exact_match": score,
        **more,
    }


def inspect_sample(i: int | str, value: Any, epoch: int = 1, **more: Any) -> dict[str, Any]:
    """One sample of a log of inspect."""
    return {
        "id": i,
        "epoch": epoch,
        "input": f"ask {i}",
        "target": "4",
        "messages": [],
        "output": {
            "model": "mockllm/model",
            "choices": [
                {"message": {"content": f"answer {i}", "role": "assistant"}, "stop_reason": "stop"},
            ],
            "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
        },
        "scores": {"match": {"value": value, "answer": "4"}},
        "attachments": {},
        **more,
    }


def inspect_header(status: str = "success") -> dict[str, Any]:
    return {
        "version": 2,
        "status": status,
        "eval": {"task": "sums", "model": "mockllm/model"},
        "results": {"scores": [{"name": "match", "scorer": "match"}]},
    }


def write_eval(
    path: Path, samples: Sequence[Mapping[str, Any]], status: str = "success", zstd: bool = True
) -> Path:
    """An archive as inspect writes it: a member a sample, each a zstd frame; Python's zipfile writes no such."""
    members = {f"samples/{s['id']}_epoch_{s['epoch']}.json": s for s in samples} | {
        "header.json": inspect_header(status)
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, value in members.items():
            content = json.dumps(value).encode()
            packed = pa.compress(content, codec="zstd", asbytes=True) if zstd else content
            archive.writestr(name, packed)
            info = archive.infolist()[-1]
            if zstd:  # in the directory at the end, which readers go by
                info.compress_type, info.file_size = ZSTD, len(content)
    path.write_bytes(buffer.getvalue())
    return path
