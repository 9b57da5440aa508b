"""A tokenizer is read as its file says, and written in words that transformers 4 and 5 both know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from trimtab.data.tokenizer import load_tokenizer, save_tokenizer
from trimtab.errors import TrimtabError
from trimtab.notices import collected

TEXT = "It is 12345670."


def whole_numbers() -> PreTrainedTokenizerFast:
    """A byte-level BPE with merges over digits: its own splitting keeps numbers whole, Qwen2's cuts them up."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [(a, b) for a in "0123456789" for b in "0123456789"]
    vocabulary |= {a + b: len(vocabulary) + i for i, (a, b) in enumerate(merges)}
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def write(folder: Path, changes: dict[str, Any], config: Any = None) -> Path:
    whole_numbers().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    said = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("backend", "is_local")}
    file.write_text(json.dumps(said | changes))
    if config is not None:
        config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "config"),
    [("Qwen2Tokenizer", None), ("LlamaTokenizer", LlamaConfig()), ("PreTrainedTokenizerFast", Qwen2Config())],
)
def test_the_tokens_are_the_files_whatever_the_class(tmp_path: Path, name: str, config: Any) -> None:
    """transformers 5 rebuilds these classes with a splitting of their own, 4 reads the file."""
    folder = write(tmp_path / "other", {"tokenizer_class": name}, config)
    want = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
    if name == "LlamaTokenizer":  # transformers sees by itself that this one is no sentencepiece
        tokenizer = load_tokenizer(str(folder))
    else:
        with collected() as told:
            tokenizer = load_tokenizer(str(folder))
        assert "Qwen2Tokenizer, whose tokens are not those of its tokenizer.json" in told.lines[0]
    assert tokenizer(TEXT)["input_ids"] == want
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    save_tokenizer(tokenizer, tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast", "the class that reads the file, in 4 and in 5"


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "broken", {})
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(TrimtabError, match=r"tokenizer .*broken"):
        load_tokenizer(str(folder))


def test_what_transformers_5_wrote_is_saved_in_words_of_both(tmp_path: Path) -> None:
    folder = tmp_path / "five"
    tokenizer = whole_numbers()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.save_pretrained(folder)
    came = json.loads((folder / "tokenizer_config.json").read_text())
    assert came["tokenizer_class"] == "TokenizersBackend"
    assert came["extra_special_tokens"] == ["<|im_start|>"], "transformers 4 takes a dict only"
    loaded = load_tokenizer(str(folder))
    save_tokenizer(loaded, tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert said["additional_special_tokens"] == ["<|im_start|>"]
    assert not {"extra_special_tokens", "backend", "is_local"} & set(said)
    assert load_tokenizer(str(tmp_path / "saved")).all_special_tokens == loaded.all_special_tokens


def test_every_file_and_name_stays_as_it_came(tmp_path: Path) -> None:
    """A template in tokenizer_config.json stays there, others beside it too; only the end's name changes."""
    named = {"__type": "AddedToken", "content": "<|im_end|>", "lstrip": False, "rstrip": False, "normalized": False}
    changes = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": named, "chat_template": "{{ messages }}",
               "model_max_length": 77, "their_own": [1]}  # fmt: skip
    folder = write(tmp_path / "four", changes)
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": named, "pad_token": "<|endoftext|>"}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = load_tokenizer(str(folder))
    tokenizer.eos_token = "<|endoftext|>"
    save_tokenizer(tokenizer, saved := tmp_path / "saved")
    before, after = (json.loads((at / "tokenizer_config.json").read_text()) for at in (folder, saved))
    gone = {"extra_special_tokens", "local_files_only"}
    assert after == {k: v for k, v in before.items() if k not in gone} | {"eos_token": "<|endoftext|>"}
    assert json.loads((saved / "special_tokens_map.json").read_text())["eos_token"] == "<|endoftext|>"
    for name in ("tokenizer.json", "merges.txt"):
        assert (saved / name).read_bytes() == (folder / name).read_bytes()
    assert not (saved / "chat_template.jinja").exists()
    assert load_tokenizer(str(saved)).chat_template == "{{ messages }}"


def test_a_tokenizer_that_has_grown_is_written_as_it_is(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write(tmp_path / "before", {"tokenizer_class": "PreTrainedTokenizerFast"})))
    tokenizer.add_tokens(["brand-new"])
    save_tokenizer(tokenizer, tmp_path / "after")
    assert load_tokenizer(str(tmp_path / "after"))("brand-new")["input_ids"] == [len(tokenizer) - 1]
