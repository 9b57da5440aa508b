"""A tokenizer.json as llama.cpp keeps it in GGUF: tokens, their kinds, merges or scores, and the name of how
text is split, which is code in llama.cpp and cannot be given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from trimtab.data.tokenizer import json_of, load_tokenizer
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.models.gguf.tokens import COMPOSED, ENDS, METASPACE, WHOLE_WORDS
from trimtab.notices import warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMED = ("qwen2", "qwen35", "llama-bpe", "tekken", "gpt-4o")
"""Splittings by one expression, by which name they are written."""
NORMAL, UNKNOWN, CONTROL, OF_USERS, UNUSED, BYTE = range(1, 7)
"""GGUF's kinds of tokens."""
IDS = ("unk", "bos", "pad", "sep", "mask")


def add_vocabulary(writer: Any, gguf: Any, folder: Path, rows: int) -> None:
    """Adds a folder's tokenizer with its chat template and the tokens that end an answer. rows: of the
    embedding.

    TrimtabError where llama.cpp has no such tokenizer.

    """
    tokenizer = load_tokenizer(str(folder))
    held = json.loads(tokenizer.backend_tokenizer.to_str())
    model = held["model"]
    if model.get("type") != "BPE":
        raise TrimtabError(f"its tokenizer is a {model.get('type')}; byte-pair ones are written.")
    tokens, kinds = _tokens(held, tokenizer, rows)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    split = _split_of(held)
    if split is None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_has_prefix(held))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split)
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _add_ids(writer, tokenizer, json_of(str(folder), "generation_config.json"))
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template:
        writer.add_chat_template(template)


def _tokens(held: JsonObject, tokenizer: PreTrainedTokenizerBase, rows: int) -> tuple[list[str], list[int]]:
    """Every token's text and kind, by id; ids without one are unused."""
    tokens, kinds = [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows
    by_bytes = bool(held["model"].get("byte_fallback"))
    for text, position in held["model"]["vocab"].items():
        if position < rows:
            is_byte = by_bytes and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
            tokens[position], kinds[position] = text, BYTE if is_byte else NORMAL
    for added in held["added_tokens"]:
        if added["id"] < rows:
            content = added["content"] if added["special"] else added["content"].replace(METASPACE, " ")
            tokens[added["id"]], kinds[added["id"]] = content, CONTROL if added["special"] else OF_USERS
    if by_bytes and tokenizer.unk_token_id is not None:
        kinds[tokenizer.unk_token_id] = UNKNOWN
    return tokens, kinds


def _split_of(held: JsonObject) -> str | None:
    """llama.cpp's name of how a byte-level tokenizer splits text; None for one in the way of sentencepiece.
    TrimtabError for any other."""
    steps = _steps(held.get("pre_tokenizer"), "pretokenizers")
    kinds = [step["type"] for step in steps]
    normal = [step["type"] for step in _steps(held.get("normalizer"), "normalizers")]
    if held["model"].get("byte_fallback") and set(kinds) <= {"Metaspace", "Split"} and "ByteLevel" not in kinds:
        return None
    if kinds[-1:] == ["ByteLevel"] and not steps[-1].get("add_prefix_space"):
        found = _byte_level_split(steps, kinds)
        allowed = [["NFC"], []] if found in COMPOSED else [[]]
        if found is not None and normal in allowed:
            if bool(held["model"].get("ignore_merges")) != (found in WHOLE_WORDS):
                raise TrimtabError(f"its tokenizer splits as {found}, but takes words of the vocabulary otherwise.")
            if normal:
                warn(
                    "llama.cpp does not compose Unicode (NFC) as the tokenizer does: e + \u0301 is not \u00e9",
                    "NFC",
                )
            return found
    raise TrimtabError(
        f"its tokenizer splits text in a way that llama.cpp has no name for ({', '.join([*normal, *kinds])})."
    )


def _byte_level_split(steps: list[JsonObject], kinds: list[str]) -> str | None:
    whole = bool(steps[-1].get("use_regex", True))
    if kinds == ["ByteLevel"] and whole:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and whole and steps[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not whole:
        pattern = steps[0]["pattern"].get("Regex")
        return next((name for name in NAMED if GGUF_PRE_TOKENIZER_SPLITS.get(name) == pattern), None)
    return None


def _steps(part: JsonObject | None, inside: str) -> list[JsonObject]:
    """The steps of a sequence, or the one step that there is."""
    if part is None:
        return []
    return list(part[inside]) if part["type"] == "Sequence" else [part]


def _has_prefix(held: JsonObject) -> bool:
    """Whether a space is put before a text."""
    steps = _steps(held.get("pre_tokenizer"), "pretokenizers")
    if any(step["type"] == "Metaspace" and step.get("prepend_scheme") != "never" for step in steps):
        return True
    return any(step["type"] == "Prepend" for step in _steps(held.get("normalizer"), "normalizers"))


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """sentencepiece's order of merging: a piece that is made earlier scores higher."""
    made: dict[str, float] = {}
    for rank, merge in enumerate(merges):
        made.setdefault(merge.replace(" ", "", 1), -float(rank))
    return [made.get(token, -float(len(merges))) for token in tokens]


def _add_ids(writer: Any, tokenizer: PreTrainedTokenizerBase, generation: JsonObject) -> None:
    """The special tokens. Those that end an answer are eos, and up to two more; llama.cpp stops at each."""
    for name in IDS:
        if (position := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(position)
    said = generation.get("eos_token_id")
    ends = [tokenizer.eos_token_id, *(said if isinstance(said, list) else [said])]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    for name, position in zip(ENDS, ends, strict=False):
        getattr(writer, f"add_{name}_token_id")(position)
    if len(ends) > len(ENDS):
        warn(
            f"GGUF has room for {len(ENDS)} tokens that end an answer; left out: {ends[len(ENDS) :]}", "stop tokens"
        )
    begun = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(begun and tokenizer.bos_token_id is not None)
