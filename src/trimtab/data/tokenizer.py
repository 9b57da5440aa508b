"""Tokenizers: read as their file says, and written so that transformers 4, transformers 5 and vLLM read the same.

transformers 5 rebuilds some tokenizers from their vocabulary and the rules of a class (Qwen2Tokenizer,
LlamaTokenizer): what tokenizer.json says of normalising and splitting is then lost without a word. What it saves
names classes and fields that transformers 4 does not know. So what is loaded is compared with the file, and what is
saved is the folder that the tokenizer came from, with the names of its special tokens changed where ours have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import cached_file

from trimtab.data.adapters import expand_home, tokenizer_source
from trimtab.data.trust import TrustSettings, refuse_remote_code
from trimtab.errors import TrimtabError, reason_of
from trimtab.json_types import JsonObject, JsonValue
from trimtab.notices import warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE, CONFIG, NAMES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
PLAIN = "PreTrainedTokenizerFast"
"""The class that reads tokenizer.json as it is, in transformers 4 and 5."""
OF_FIVE = {"TokenizersBackend": PLAIN, "PythonBackend": "PreTrainedTokenizer"}
"""Classes of transformers 5 only -> what they are called in both."""
OF_FIVE_ONLY = ("backend", "is_local", "local_files_only")
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
PROBES = (
    "It is 12345670, or 3.14159: 1,000,000 and 2026-11-28.",
    "Don't YOU'LL they've \u2019s; (well) [so] {it} \"goes\" -- on... e.g. a/b_c@d.org #1 $5 100%",
    " leading space, two  spaces, three   spaces, trailing \n",
    "line\nline\n\nline\n\n\nline.\n\n- item\n\ttab\t\ttabs\r\nend\n",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n        pass\n",
    "café cafe\u0301 naïve Å A\u030a \ufb01ne ½ ²",
    "你好，世界。 これは Привет мир שלום مرحبا नमस्ते 한국어 ไทย",
    "🙂👍🏽👨‍👩‍👧 €uro → ∑x² ≤ 1 <b>bold</b> &amp; \\frac{a}{b}",
    "UPPER lower CamelCase snake_case kebab-case",
)
"""Texts on which ways to normalise and split differ: digits, contractions, blanks, composed letters, scripts."""


def file_of(source: str, name: str) -> Path | None:
    """A file of a folder, or of a hub model that was loaded before; None where there is none."""
    if Path(source).is_dir():
        file = Path(source) / name
        return file if file.is_file() else None
    try:
        path = cached_file(
            source, name, local_files_only=True, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
    except Exception:  # a name that is no hub name; the libraries raise whatever they like
        return None
    return Path(path) if path else None


def json_of(source: str, name: str) -> JsonObject:
    """The object in a JSON file of a folder or hub model; empty where there is none that can be read."""
    file = file_of(source, name)
    try:
        value = json.loads(file.read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def load_tokenizer(source: str, trust: TrustSettings | None = None) -> PreTrainedTokenizerBase:
    """A folder's or hub model's tokenizer. trust: whether code that comes with it may run; None: it may not."""
    trust, source = trust or TrustSettings(), tokenizer_source(expand_home(source))
    refuse_remote_code(source, trust, "tokenizer")
    advice = "Name a folder or hub model that has one with --tokenizer (in a recipe: tokenizer)."
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust.trust_remote_code)
    except Exception as error:  # the libraries raise whatever they like
        reason = _damaged(Path(source)) or f"cannot be loaded: {reason_of(error).rstrip('.')}."
        if not Path(source).exists():
            reason = (
                f"cannot be loaded: there is no such folder here, and from the hub: {reason_of(error).rstrip('.')}."
            )
        raise TrimtabError(f"tokenizer {source}: {reason} {advice}") from error
    # From a folder with a config alone, transformers makes a tokenizer that knows no text.
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise TrimtabError(f"tokenizer {source}: no tokenizer files, or empty ones. {advice}")
    return _as_its_file(tokenizer, source)


def _damaged(folder: Path) -> str:
    """Which of a tokenizer's files cannot be read, in words; "" for none. The library does not say which."""
    for name in (FILE, CONFIG, NAMES, "added_tokens.json"):
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).is_file() else {}
        except (OSError, ValueError, RecursionError) as error:
            return f"its {name} cannot be read: {error}. Copy it again, or mend it."
        if not isinstance(value, dict):
            return f"its {name} holds no settings but {type(value).__name__}. Copy it again, or mend it."
    return ""


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text's tokens, without what a tokenizer puts around texts."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def first_difference(
    tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, texts: Iterable[str] = PROBES
) -> str | None:
    """The first text of which two tokenizers make different tokens; None where they agree on all."""
    return next((text for text in texts if ids_of(tokenizer, text) != ids_of(other, text)), None)


def probes_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts to compare tokenizers on: `PROBES`, and some with the tokenizer's own special tokens inside."""
    added = [str(token) for token in list(tokenizer.added_tokens_decoder.values())[:24]]
    return (*PROBES, *(f"one{token}two {token} three\n" for token in added))


def _as_its_file(tokenizer: PreTrainedTokenizerBase, source: str) -> PreTrainedTokenizerBase:
    """The tokenizer, or, where its tokens are not those of tokenizer.json, one that reads the file as it is."""
    file = file_of(source, FILE)
    if file is None or type(tokenizer) is PreTrainedTokenizerFast or not tokenizer.is_fast:
        return tokenizer  # nothing to compare with, or read from the file already
    try:
        core = Tokenizer.from_file(str(file))
        core.no_padding()
        core.no_truncation()
        texts = probes_of(tokenizer)
        ids_of_file = [core.encode(text, add_special_tokens=False).ids for text in texts]
        if ids_of_file == [ids_of(tokenizer, text) for text in texts]:
            return tokenizer
        plain = PreTrainedTokenizerFast.from_pretrained(source)
    except Exception as error:  # the libraries raise whatever they like
        raise TrimtabError(
            f"tokenizer {source}: its {FILE} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    text = first_difference(tokenizer, plain, texts)
    if text is None:  # both follow tokenizer_config.json where it says otherwise
        return tokenizer
    for name in SPECIAL:  # those that only the class names
        token = getattr(tokenizer, name, None)
        if token is not None and getattr(plain, name, None) is None and token in plain.get_vocab():
            setattr(plain, name, token)
    warn(
        f"tokenizer {source}: transformers reads it as {type(tokenizer).__name__}, whose tokens are not those of "
        f"its {FILE}, for {text[:24]!r}…. The file's are used.",
    )
    return plain


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a tokenizer as its source has it, but for the names of its special tokens; readable by transformers 4.

    A tokenizer that has more tokens than its source, or none, is written as transformers does.
    """
    tokenizer.save_pretrained(folder)
    source = str(getattr(tokenizer, "name_or_path", "") or "")
    config_of_source = json_of(source, CONFIG)
    kept = bool(source) and _unchanged(source, folder)
    if kept:
        _copy_files(tokenizer, source, folder)
    written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config = _config(tokenizer, config_of_source if kept and config_of_source else written, folder)
    if type(tokenizer) is PreTrainedTokenizerFast and config_of_source.get("tokenizer_class") != PLAIN:
        config["tokenizer_class"] = PLAIN  # what was loaded, whatever the source says
    _write(folder / CONFIG, config)
    if kept and (names := json_of(source, NAMES)):
        _write(folder / NAMES, _renamed(tokenizer, names))


def _write(file: Path, value: JsonObject) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _unchanged(source: str, folder: Path) -> bool:
    """Whether the source's own file gives the tokens that are in memory."""
    file = file_of(source, FILE)
    if file is None or not (folder / FILE).is_file():
        return False
    of_source = json.loads(file.read_text(encoding="utf-8"))
    saved = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return _vocabulary(of_source) == _vocabulary(saved)


def _vocabulary(tokenizer_json: JsonObject) -> tuple[JsonValue, list[tuple[int, str]]]:
    """Vocabulary and added tokens of a tokenizer.json. The former is an object or a list of pieces with scores."""
    added = sorted((token["id"], token["content"]) for token in tokenizer_json.get("added_tokens") or [])
    return tokenizer_json.get("model", {}).get("vocab"), added


def _copy_files(tokenizer: PreTrainedTokenizerBase, source: str, folder: Path) -> None:
    """The source's own vocabulary files, byte for byte."""
    names = {*getattr(tokenizer, "vocab_files_names", {}).values(), FILE, "added_tokens.json"}
    names |= {"tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt"}
    for name in names:
        if (file := file_of(source, name)) is not None and Path(name).name == name:
            shutil.copyfile(file, folder / name)


def _renamed(tokenizer: PreTrainedTokenizerBase, names: JsonObject) -> JsonObject:
    """The same with the names that the special tokens have now, where these are others."""
    changed = dict(names)
    for name in SPECIAL:
        before, now = names.get(name), getattr(tokenizer, name, None)
        text = before.get("content") if isinstance(before, dict) else before
        if now is not None and text != str(now):
            changed[name] = str(now)
    return changed


def _config(tokenizer: PreTrainedTokenizerBase, before: JsonObject, folder: Path) -> JsonObject:
    """tokenizer_config.json in words that transformers 4 and 5 both know. folder: where templates were written."""
    config = {name: value for name, value in _renamed(tokenizer, before).items() if name not in OF_FIVE_ONLY}
    kind = config.get("tokenizer_class")
    if kind in OF_FIVE:
        config["tokenizer_class"] = OF_FIVE[kind]
    extra = config.get("extra_special_tokens")
    if isinstance(extra, list):  # transformers 4 takes a dict only, and lists by another name
        del config["extra_special_tokens"]
        config["additional_special_tokens"] = [*(config.get("additional_special_tokens") or []), *extra]
    if "chat_template" in before:
        if before["chat_template"] == tokenizer.chat_template:
            (folder / TEMPLATE).unlink(missing_ok=True)  # it stays where it came from
        else:
            del config["chat_template"]
    return config


def end_of_turn(tokenizer: PreTrainedTokenizerBase, suffix: Iterable[int]) -> int:
    """The token that ends an assistant's turn: the first special one of what a template puts behind an answer, else
    eos. TrimtabError where there is neither."""
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {i for i, token in added.items() if token.content.strip()}
    for token in suffix:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise TrimtabError("the tokenizer has no eos token, and its template none that ends a turn.")
    return int(tokenizer.eos_token_id)


def special_texts(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> tuple[str, ...]:
    """The special ones of these tokens as text, the longest first."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    texts = tokenizer.convert_ids_to_tokens([token for token in tokens if token in special])
    return tuple(sorted(set(texts), key=len, reverse=True))
