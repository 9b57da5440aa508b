"""A GGUF file's tokenizer as a plain tokenizer.json.

transformers 5.23 builds it from the file's vocabulary and merges. Mended here: how text is split, where it takes
GPT-2's way for a name that it does not know (SmolLM's digits one by one); Unicode's composition for Qwen2; whole
words that merges do not reach (Llama 3); special tokens with letters beyond the byte alphabet (DeepSeek's),
which it leaves to be cut in pieces; and the space that Llama 2's tokenizers put in front, which the file may say
is none, and which stands before a text that begins with a space too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AS_GPT2 = {
    "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "mellum", "mpt", "olmo", "jais", "trillion", "exaone4",
    "granite-docling", "a.x-4.0", "modern-bert",
}  # fmt: skip
"""Names of splittings (tokenizer.ggml.pre) that are GPT-2's: llama.cpp's llama-vocab.cpp."""
DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}
"""Those that are GPT-2's behind a splitting into single digits."""
WHOLE_WORDS = {
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "jina-v5-nano", "tekken",
}  # fmt: skip
"""Those that take a word of the vocabulary whole, whatever the merges make of it, and begin with bos."""
COMPOSED = {"qwen2", "qwen35", "megrez"}
"""Those whose tokenizer.json composes Unicode (NFC)."""
METASPACE = "\u2581"
CONTROL, OF_USERS = 3, 4
"""Of tokenizer.ggml.token_type: special tokens, and those that are only matched whole."""
SPECIAL = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
    "sep_token": "seperator", "cls_token": "cls", "mask_token": "mask",
}  # fmt: skip
"""transformers' names of special tokens -> GGUF's, whose spelling is its own."""
ENDS = ("eos", "eot", "eom")
"""Tokens that end an answer: of a text, a turn, a message."""


def read_tokenizer(file: str, metadata: JsonObject) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file, with its chat templates. metadata: the file's, with its lists of tokens.

    TrimtabError, without the file's name, where it splits text in a way that is not known here.

    """
    architecture, values, settings = get_gguf_tokenizer(file)
    backend, _ = convert_gguf_tokenizer(architecture, values)
    kind, tokens = values.get("tokenizer_type"), values["tokens"]
    held = json.loads(backend.to_str())
    if kind == "gpt2":
        _mend_byte_level(held, values.get("pre_tokenizer_type"), values)
    elif kind == "llama" and not architecture.startswith("gemma"):
        _as_sentencepiece(held, bool(values.get("add_prefix_space", True)))
    named = {
        theirs: tokens[position]
        for theirs, ours in SPECIAL.items()
        if (position := metadata.get(f"tokenizer.ggml.{ours}_token_id")) is not None
    }
    begins = settings.get("add_bos_token", kind == "gpt2" and values.get("pre_tokenizer_type") in WHOLE_WORDS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(held)),
        clean_up_tokenization_spaces=False,
        add_bos_token=bool(begins) and "bos_token" in named,
        add_eos_token=bool(settings.get("add_eos_token", False)),
        **dict.fromkeys(("bos_token", "eos_token")) | named,
    )
    tokenizer.chat_template = _templates(metadata)
    return tokenizer


def stop_tokens(metadata: JsonObject) -> list[int]:
    """The ids of all tokens that end an answer, eos first."""
    ids = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ENDS]
    return list(dict.fromkeys(token for token in ids if token is not None))


def _templates(metadata: JsonObject) -> str | dict[str, str] | None:
    """The chat template; where there are several, by name."""
    start = "tokenizer.chat_template"
    others = {key.removeprefix(f"{start}."): text for key, text in metadata.items() if key.startswith(f"{start}.")}
    main = metadata.get(start)
    if not others:
        return main
    return ({"default": main} if main else {}) | others


def _mend_byte_level(held: JsonObject, split: str | None, values: JsonObject) -> None:
    """A byte-level tokenizer as its model's own is. split: the name of its splitting."""
    if split in DIGITS_APART:
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        held["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        }
    elif split not in AS_GPT2 and split not in GGUF_PRE_TOKENIZER_SPLITS:
        what = f"in a way called {split!r}, which is not read" if split else "in a way that it does not name"
        raise TrimtabError(
            f"its tokenizer splits text {what} (tokenizer.ggml.pre). Name the model that it was made from."
        )
    if split in COMPOSED:
        held["normalizer"] = {"type": "NFC"}
    held["model"]["ignore_merges"] = split in WHOLE_WORDS
    _add_respelled(held, values)


def _add_respelled(held: JsonObject, values: JsonObject) -> None:
    """Tokens that are matched whole, under their own spelling, with the special ones marked."""
    spelling = bytes_to_unicode()
    alphabet = set(spelling.values())
    vocabulary, there = held["model"]["vocab"], {token["id"] for token in held["added_tokens"]}
    for position, (token, kind) in enumerate(zip(values["tokens"], values.get("token_type") or (), strict=False)):
        if kind not in (CONTROL, OF_USERS) or position in there or set(token) <= alphabet:
            continue
        del vocabulary["".join(spelling[byte] for byte in token.encode())]
        vocabulary[token] = position
        held["added_tokens"].append({
            "id": position, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": kind == CONTROL,
        })  # fmt: skip
    held["added_tokens"].sort(key=lambda token: token["id"])


def _as_sentencepiece(held: JsonObject, prefix: bool) -> None:
    """A tokenizer of Llama 2's kind. prefix: whether a space is put before a text, also before one that begins
    with a space: so llama.cpp does, and the tokenizer.json of Llama 2."""
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}
    before = [{"type": "Prepend", "prepend": METASPACE}] if prefix else []
    held["normalizer"], held["pre_tokenizer"] = {"type": "Sequence", "normalizers": [*before, blanks]}, None
    back = {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "}
    stripped = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    held["decoder"] = {
        "type": "Sequence",
        "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *stripped],
    }
