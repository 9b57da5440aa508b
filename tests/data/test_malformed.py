"""Two hundred malformed inputs: each is one line that says where and what to do, or a drop that is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.malformed import CASES, SPOILT, Case, real_rows
from trimtab.data.chat import ChatFormat, TruncationSettings, load_tokenizer
from trimtab.data.split_groups import SplitCounts, encode_records, require_groups
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError

LIMIT = 2000


@pytest.fixture(scope="module")
def chat(bpe30k_dir: Path) -> ChatFormat:
    return ChatFormat(load_tokenizer(str(bpe30k_dir)), TruncationSettings(max_length=LIMIT))


@pytest.fixture
def prepare(chat: ChatFormat) -> Callable[[Path, str], SplitCounts]:
    """What a stage does with its data before it loads a model."""

    def run(path: Path, source: str) -> SplitCounts:
        splits = split_records(DataSettings(train=str(path), max_length=LIMIT))
        # Labels without pairs are for no method that there is: their prompts are what can be encoded.
        groups, counts = encode_records(splits.train, chat, "none" if source == "kto" else "pair")
        require_groups(groups, counts, "training", str(path))
        return counts

    return run


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """load_dataset keeps what it read: here, not in the home folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("source", ["ultrafeedback", "sharegpt", "kto", "hh"])
def test_unspoilt_rows_are_used(source: str, shared_data: Path, tmp_path: Path, prepare: Any) -> None:
    """The control: without it a case could fail for another reason than its own."""
    from data.malformed import write_lines

    rows = real_rows(shared_data, source)
    counts = prepare(write_lines(rows, tmp_path / "whole.jsonl"), source)
    assert (counts.rows, counts.used, counts.dropped) == (5, 5, {})


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed(case: Case, shared_data: Path, tmp_path: Path, prepare: Any) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = case.make(real_rows(shared_data, case.source), folder)
    if case.expected == "drop":
        counts = prepare(path, case.source)
        assert (counts.rows, counts.used) == (5, 4)
        assert sum(counts.dropped.values()) == 1
        assert counts.dropped_rows[0].startswith(f"spoilt.jsonl:{SPOILT}: ")
        return
    with pytest.raises(TrimtabError) as found:
        prepare(path, case.source)
    message = str(found.value)
    assert len(message.splitlines()) == 1
    assert 20 < len(message) < 1200
    assert path.name in message
    if case.row is not None:
        assert message.partition(": ")[0].endswith(f":{case.row}")


def test_there_are_two_hundred() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)
