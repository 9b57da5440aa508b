"""Which rows a command takes: those that were asked for, or a word about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.command_settings import audit_settings, data_settings
from trimtab.data.parsing import apply_overrides
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import SplitCounts
from trimtab.methods.sft import SFT
from trimtab.methods.sft_settings import SFTSettings
from trimtab.notices import collected
from trimtab.study.collect import opponent_name
from trimtab.study.evaluate import RowRange, evaluate_only, evaluation_inputs, generate_only
from trimtab.training.stage import stage_inputs

ROWS = [{"prompt": f"Name {i}", "chosen": f"It is {i}.", "rejected": "No."} for i in range(10)]
FEW = ["decoding.max_new_tokens=2", "decoding.strategy=greedy"]


@pytest.fixture
def data(write_jsonl: Callable[..., Path]) -> str:
    return str(write_jsonl(ROWS))


@pytest.fixture
def model(tiny_model_dir: Callable[..., Path]) -> str:
    return str(tiny_model_dir())


def prompts(file: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in file.read_text().splitlines()]


def test_the_rows_that_are_asked_for_are_judged(model: str, data: str, tmp_path: Path) -> None:
    """Three after the first two; the report says how many there were."""
    found = evaluate_only(model, data, tmp_path / "e", None, None, None, FEW, RowRange(3, 2))
    assert prompts(tmp_path / "e" / "evaluation" / "model" / "generations.jsonl") == ["Name 2", "Name 3", "Name 4"]
    left_out = {"not among --rows and --skip": 7}
    assert found.data == {"evaluation": SplitCounts(read=10, kept=3, dropped=left_out)}
    file = generate_only(model, data, tmp_path / "g", None, FEW, RowRange(None, 8))
    assert prompts(file) == ["Name 8", "Name 9"]


def test_fewer_rows_than_asked_for(data: str) -> None:
    records = split_records(DataSettings(train=data)).train
    with collected() as told:
        assert len(RowRange(8, 5).select(records, "rows.jsonl")) == 5
        assert RowRange(10).select(records, "rows.jsonl") == records
    assert told.lines == ["--rows 8: rows.jsonl has only 5 rows after the first 5, which are all taken"]
    with pytest.raises(TrimtabError, match=r"--skip 10: rows.jsonl has 10 rows, so none is left"):
        RowRange(1, 10).select(records, "rows.jsonl")


@pytest.mark.parametrize(
    ("command", "setting", "expected"),
    [
        ("evaluate", "test_rows=4", "makes no splits, .* --rows 4 takes the first 4, and --skip 4 leaves out"),
        ("evaluate", "validation_rows=4", "makes no splits"),
        ("evaluate", "validation_share=0.5", "makes no splits"),
        ("evaluate", "test=other.jsonl", "makes no splits"),
        ("evaluate", "train_rows=4", "--rows 4 takes"),
        ("generate", "test_share=0.5", "makes no splits"),
        ("generate", "max_length=9", "decoding.max_new_tokens"),
        ("evaluate", "train=other.jsonl", "--data says"),
    ],
)
def test_settings_that_mean_something_in_training_only(
    command: str, setting: str, expected: str, model: str, data: str
) -> None:
    with pytest.raises(TrimtabError, match=expected):
        evaluation_inputs(command, {"model": model}, data, apply_overrides({}, [f"data.{setting}"]), RowRange())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"validation_split": "held_out"}, "a split of data.validation, which is not given"),
        ({"test_split": "train"}, "a split of data.test, which is not given"),
        ({"train_split": "test"}, "a file has no splits, so train_split='test' means nothing"),
        ({"config": "default"}, "a file has no configurations, so config='default' means nothing"),
        ({"pair_labels": True}, "pair_labels=true, but no row has a label"),
    ],
)
def test_settings_of_the_data_that_nothing_would_read(given: dict[str, object], expected: str, data: str) -> None:
    with pytest.raises(TrimtabError, match=expected):
        split_records(data_settings(data, None, dict(given)))


def test_two_sources_for_one_split(data: str) -> None:
    with pytest.raises(TrimtabError, match=r"--set data.validation=b.jsonl: --validation says a.jsonl"):
        data_settings(data, "a.jsonl", {"validation": "b.jsonl"})
    assert data_settings(data, "a.jsonl", {"validation": "a.jsonl"}).validation == "a.jsonl"


def test_an_audit_counts_tokens_with_a_tokenizer(data: str) -> None:
    with pytest.raises(TrimtabError, match=r"data.max_length: it counts tokens, so name whose with --model"):
        audit_settings(data, None, ["data.max_length=9"], has_tokenizer=False)
    assert audit_settings(data, None, ["data.max_length=9"])[0].max_length == 9


def test_more_rows_than_a_source_has(data: str) -> None:
    with collected() as told:
        splits = split_records(DataSettings(train=data, train_rows=20, validation=data, validation_rows=11))
    assert (len(splits.train), len(splits.validation)) == (10, 10)
    assert [line.split(":")[0] for line in told.lines] == ["data.validation_rows=11", "data.train_rows=20"]


def test_a_quick_try(data: str, model: str) -> None:
    """The first rows of each split, as they would be without it; a setting of its own in the stage's key, which
    is as it was for those who do not use it."""
    whole = DataSettings(train=data, validation_rows=4)
    few = whole.model_copy(update={"limit": 3})
    all_rows = split_records(whole)
    with collected() as told:
        splits = split_records(few)
    assert (splits.train, splits.validation) == (all_rows.train[:3], all_rows.validation[:3])
    assert told.lines == ["a quick try: at most the first 3 rows of each split were used (limit)"]
    settings = SFTSettings(learning_rate=0.1)
    keys = [stage_inputs("sft", SFT, settings, one, model, model)["data"] for one in (whole, few)]
    assert "limit" not in keys[0]
    assert keys[1] == keys[0] | {"limit": 3}


@pytest.mark.parametrize("name", ["base", "sft", "SFT", "Base", "online_dpo-2", "chosen", "model"])
def test_an_opponent_that_is_called_as_something_else(name: str) -> None:
    assert opponent_name(name) == f"opponent {name}"


@pytest.mark.parametrize("name", ["org/base", "./sft", "sandbox:instruct", "best", "my-2"])
def test_an_opponent_with_a_name_of_its_own(name: str) -> None:
    assert opponent_name(name) == name
