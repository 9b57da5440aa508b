"""Where rows go, and what became of each: nothing is lost without being counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trimtab.data.chat import ChatFormat, TruncationSettings, load_tokenizer
from trimtab.data.records import Message, Record, read_records
from trimtab.data.split_groups import SplitCounts, choose, encode_records, require_groups
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError

Write = Callable[..., Path]


def rows(n: int, prompt: Callable[[int], str] = "p{}".format) -> list[dict[str, str]]:
    return [{"prompt": prompt(i), "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(n)]


def prompts(records: list[Record]) -> list[Any]:
    return [record.prompt for record in records]


def test_first_rows(write_jsonl: Write) -> None:
    """Validation first, then test, then training rows, of which at most train_rows."""
    train = str(write_jsonl(rows(7)))
    splits = split_records(DataSettings(train=train, validation_rows=2, test_rows=1, train_rows=3))
    assert prompts(splits.validation) == ["p0", "p1"]
    assert prompts(splits.test) == ["p2"]
    assert prompts(splits.train) == ["p3", "p4", "p5"]
    assert [record.origin for record in splits.train] == ["rows.jsonl:4", "rows.jsonl:5", "rows.jsonl:6"]
    assert splits.shared_prompts == 0


def test_files_of_their_own(write_jsonl: Write) -> None:
    """The first n rows of each; training rows stay whole. Shared prompts are counted: p0 and p1 are held out too,
    and p0 stands in two training rows."""
    train = str(write_jsonl([*rows(4), rows(1)[0]]))
    validation = str(write_jsonl(rows(2), "validation.jsonl"))
    test = str(write_jsonl([{"prompt": "t", "completion": "c"}] * 3, "test.jsonl"))
    splits = split_records(DataSettings(train=train, validation=validation, test=test, test_rows=2))
    assert prompts(splits.train) == ["p0", "p1", "p2", "p3", "p0"]
    assert prompts(splits.validation) == ["p0", "p1"]
    assert prompts(splits.test) == ["t", "t"]
    assert splits.shared_prompts == 3


def test_shares_keep_equal_prompts_together(write_jsonl: Write) -> None:
    """600 rows of 200 prompts, each three times and far apart. A prompt's split depends on nothing but itself."""
    same = rows(600, lambda i: f"p{i % 200}")
    settings = {"validation_share": 0.3, "test_share": 0.2}
    splits = split_records(DataSettings(train=str(write_jsonl(same)), **settings))
    parts = [set(prompts(part)) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == 200
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [3 * len(p) for p in parts]
    # 200 prompts: standard deviations of 7, 6.5 and 5.7.
    assert abs(len(parts[0]) - 100) < 28
    assert abs(len(parts[1]) - 60) < 26
    assert abs(len(parts[2]) - 40) < 23
    assert splits.shared_prompts == 0

    backwards = str(write_jsonl(same[::-1], "backwards.jsonl"))
    again = split_records(DataSettings(train=backwards, **settings))
    assert [set(prompts(part)) for part in (again.train, again.validation, again.test)] == parts
    # More test rows leave the validation rows what they were.
    more = split_records(DataSettings(train=backwards, validation_share=0.3, test_share=0.4))
    assert set(prompts(more.validation)) == parts[1]


def test_shares_are_the_same_everywhere(write_jsonl: Write) -> None:
    """Written down once: another machine, process or release must not move rows between train and test."""
    splits = split_records(DataSettings(train=str(write_jsonl(rows(12))), test_share=0.5))
    assert prompts(splits.test) == ["p0", "p1", "p2", "p6", "p8"]


def test_nothing_left_to_train_on(write_jsonl: Write) -> None:
    train = str(write_jsonl(rows(4)))
    for settings, message in (
        ({"validation_rows": 4}, r"validation_rows=4 takes all 4 rows of .*rows.jsonl; leave some"),
        ({"validation_rows": 2, "test_rows": 2}, r"test_rows=2 takes all 2 rows"),
        ({"validation_rows": 9}, r"validation_rows=9 takes all 4 rows"),
        ({"test_share": 0.999}, "leave no row to train on"),
        ({"validation_share": 0.001}, r"validation_share=0.001 of the 4 rows of .*rows.jsonl is no row at all"),
    ):
        with pytest.raises(TrimtabError, match=message):
            split_records(DataSettings(train=train, **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_share": 0.1, "validation_rows": 3}, "choose one way to split"),
        ({"test_share": 0.1, "test": "t.jsonl"}, "choose one way to split"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"validation_rows": 0}, "greater than 0"),
        ({"max_lenght": 5}, "Extra inputs"),
    ],
)
def test_settings_that_contradict(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSettings(train="x.jsonl", **settings)


# ---- what a method trains on


def test_choose() -> None:
    """Completions stand best first: SFT takes the first, a pair is the best and the worst."""
    record = Record("p", ("a", "b", "c"), (3.0, 2.0, 1.0), "f:1")
    assert choose(record, "first") == Record("p", ("a",), (3.0,), "f:1")
    assert choose(record, "pair") == Record("p", ("a", "c"), (3.0, 1.0), "f:1")
    assert choose(record, "all") is record
    with pytest.raises(TrimtabError, match=r"f:2: one completion only; .*'chosen' and 'rejected'"):
        choose(Record("p", ("a",), origin="f:2"), "pair")


def test_counts_by_hand(make_tokenizer: Callable[..., Any]) -> None:
    """Byte-level ChatML: a one-letter prompt takes n tokens, and 6 more are left for a completion."""
    tokenizer = make_tokenizer()
    n = len(ChatFormat(tokenizer).prompt_ids("p"))
    chat = ChatFormat(tokenizer, TruncationSettings(max_length=n + 6, min_completion_length=6))
    records = [
        Record("p", ("abc", "xyz"), (2.0, 1.0), "f:1"),
        Record("p", ("abc", "xyz"), (2.0, 2.0), "f:2"),  # a duplicate, with equal scores
        Record("p", ("abcdefgh", "xyz"), None, "f:3"),  # one completion truncated
        Record("p", ("abcdefgh", "abcdefgz"), (1.0, 1.0), "f:4"),  # dropped, with equal scores
        Record("p", ("abc", " "), None, "f:5"),
        Record("p", ("abc", "abc"), None, "f:6"),
        Record((Message("user", "pppppppp"),), ("abcdefgh", "xyz"), None, "f:7"),
    ]
    groups, counts = encode_records(records, chat, "pair")
    assert [group.index for group in groups] == [0, 1, 2]
    assert counts == SplitCounts(
        rows=7,
        used=3,
        dropped={
            "empty completion": 1,
            "identical after truncation": 1,
            "identical completions": 1,
            "prompt too long": 1,
        },
        dropped_rows=[
            "f:4: identical after truncation",
            "f:5: empty completion",
            "f:6: identical completions",
            "f:7: prompt too long",
        ],
        truncated=1,
        duplicates=1,
        equal_scores=2,
    )
    # SFT reads the first completion only: 4, 5 and 6 can be used. 1, 2, 5 and 6 are equal now, 3 and 4 too.
    groups, counts = encode_records(records, chat, "first")
    assert [group.index for group in groups] == [0, 1, 2, 3, 4, 5]
    assert (counts.dropped, counts.truncated) == ({"prompt too long": 1}, 2)
    assert (counts.duplicates, counts.equal_scores) == (4, 0)


def test_the_first_twenty_dropped_rows_are_named(make_tokenizer: Callable[..., Any]) -> None:
    records = [Record("p", ("",), None, f"f:{i}") for i in range(30)]
    _, counts = encode_records(records, ChatFormat(make_tokenizer()), "first")
    assert counts.dropped == {"empty completion": 30}
    assert len(counts.dropped_rows) == 20


def test_real_counts(shared_data: Path, bpe30k_dir: Path) -> None:
    """../shared/data/README.md: 1,000 pairs, 4 identical, 111 of equal scores, 2 with an empty completion."""
    records = read_records(str(shared_data / "data" / "ultrafeedback" / "train.jsonl"))
    chat = ChatFormat(load_tokenizer(str(bpe30k_dir)), TruncationSettings(max_length=10**6))
    groups, counts = encode_records(records, chat, "pair")
    assert counts.dropped == {"empty completion": 2, "identical completions": 4}
    assert (counts.rows, counts.used, counts.truncated) == (1000, 994, 0)
    assert (counts.duplicates, counts.equal_scores) == (0, 111)
    assert len({group.index for group in groups}) == 994


def test_training_on_nothing_says_where_the_rows_went(make_tokenizer: Callable[..., Any]) -> None:
    chat = ChatFormat(make_tokenizer(), TruncationSettings(max_length=2))
    groups, counts = encode_records([Record("p", ("a", "b"), None, "f:1")] * 5, chat, "pair")
    with pytest.raises(TrimtabError) as found:
        require_groups(groups, counts, "training", "f.jsonl")
    assert str(found.value) == (
        "data f.jsonl: nothing is left of the 5 training rows (5 × prompt too long). Raise max_length, or mend "
        "the rows: f:1: prompt too long; f:1: prompt too long; f:1: prompt too long."
    )
    require_groups([object()], counts, "training", "f.jsonl")  # type: ignore[list-item]


def test_prompts_alone_are_for_grpo_only(write_jsonl: Write, make_tokenizer: Callable[..., Any]) -> None:
    """A prompt without a completion is a group for a method that samples its own, and an error for others."""
    turns = [{"role": "user", "content": "hi"}]
    records = read_records(str(write_jsonl([{"prompt": "say it", "answer": 4}, {"prompt": turns, "answer": 5}])))
    assert [r.completions for r in records] == [(), ()]
    chat = ChatFormat(make_tokenizer(), TruncationSettings(max_length=64))
    groups, counts = encode_records(records, chat, "none")
    assert [list(g.prompt) for g in groups] == [chat.prompt_ids(r.prompt) for r in records]
    assert counts.used == 2
    with pytest.raises(TrimtabError, match=r"rows.jsonl:1: a prompt without a completion; only GRPO"):
        encode_records(records, chat, "first")


def test_other_columns_are_kept_for_reward_functions(write_jsonl: Write) -> None:
    """All but those whose names stand for the policy's own prompt and completions."""
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "solution": 42, "difficulty": None}
    (record,) = read_records(str(write_jsonl([row])))
    assert record.columns == {"chosen": "a", "rejected": "b", "solution": 42, "difficulty": None}
    assert record == Record("p", ("a", "b"), None, "rows.jsonl:1"), "and make no difference to what a row is"


def test_rows_with_a_columns_value_stay_together(write_jsonl: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """300 rows of 100 sets of kinds, each three times and in another order: 30 sets are tested, and which they are
    depends on nothing but the rows, whatever their order."""
    kinds = [[f"k{i}", f"k{i + 1}"] for i in range(100)]
    asked = [{"prompt": f"p{i}", "kinds": kinds[i % 100][:: 1 if i < 100 else -1]} for i in range(300)]
    settings: dict[str, Any] = {"validation_share": 0.2, "test_share": 0.3, "split_by": "kinds"}

    def parts(rows: list[dict[str, Any]]) -> list[set[frozenset[str]]]:
        splits = split_records(DataSettings(train=str(write_jsonl(rows)), **settings))
        assert list(map(len, (splits.train, splits.validation, splits.test))) == [150, 60, 90]
        assert splits.notes()["values"] == {"train": 50, "validation": 20, "test": 30}
        return [
            {frozenset(r.columns["kinds"]) for r in part} for part in (splits.train, splits.validation, splits.test)
        ]

    found = parts(asked)
    assert parts(asked[::-1]) == found
    assert "data.split_by=kinds: train 150 rows of 50 values, validation 60 rows of 20" in capsys.readouterr().err
    # Written down once: another machine, process or release must not move rows between train and test.
    assert [i for i in range(12) if frozenset(kinds[i]) in found[2]] == [1, 2]


def test_a_share_is_of_the_rows(write_jsonl: Write) -> None:
    """Nine rows of one value and one of another: either is the tenth that is tested, or nothing is."""
    rows = [{"prompt": f"p{i}", "kind": "a" if i else "b"} for i in range(10)]
    first = split_records(DataSettings(train=str(write_jsonl(rows)), test_share=0.5, split_by="kind"))
    assert sorted([len(first.train), len(first.test)]) == [1, 9]


def test_split_by_says_what_it_lacks(write_jsonl: Write) -> None:
    data = str(write_jsonl([{"prompt": "p", "kind": "a"}, {"prompt": "q"}]))
    with pytest.raises(TrimtabError, match=r"rows\.jsonl:2: data\.split_by=kind: the row has no such column"):
        split_records(DataSettings(train=data, test_share=0.5, split_by="kind"))
    with pytest.raises(ValidationError, match="split_by needs validation_share or test_share"):
        DataSettings(train=data, test_rows=1, split_by="kind")


def test_ifevals_combinations_do_not_leak(shared_data: Path) -> None:
    data = str(shared_data / "data" / "ifeval" / "prompts.jsonl")
    splits = split_records(DataSettings(train=data, test_share=0.3, split_by="instruction_id_list"))
    assert (len(splits.train), len(splits.test), splits.values) == (386, 155, {"train": 118, "test": 63})
    asked = [{frozenset(r.columns["instruction_id_list"]) for r in part} for part in (splits.train, splits.test)]
    assert not asked[0] & asked[1]
