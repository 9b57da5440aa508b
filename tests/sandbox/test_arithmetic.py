"""Arithmetic rows: right, as hard as they say, apart between splits; and the reward that reads the answer."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from trimtab.data.records import columns_of, read_records
from trimtab.errors import TrimtabError
from trimtab.rewards.exact_answer import ExactAnswerReward, final_number
from trimtab.rewards.settings import reward_named
from trimtab.sandbox.arithmetic import arithmetic_rows, carries, difficulty, main, split_of, write_arithmetic


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("85", "85"), ("37 + 48 = 85.", "85"), ("It is 1,234,567!", "1234567"), ("−5", "-5"), ("so -5", "-5"),
        ("90-5", "5"), ("(3)-5", "5"), ("85.0", "85.0"), ("first 1, then 2, and 3,", "3"), ("12,34", None),
        ("1.2.3", None), ("1,2345", None), ("none", None), ("", None), ("007", "7"), ("x5", "5"),
    ],
)  # fmt: skip
def test_the_last_number_is_read_strictly(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


def test_the_reward_is_of_the_final_answer_alone() -> None:
    reward = ExactAnswerReward()
    texts = ["It is 85.", "85, no, 86", "85.0", "eighty-five", "85"]
    scored = reward.scored(["p"] * 5, texts, columns={"answer": [85, 85, 85, 85, None]})
    assert [one.score for one in scored] == [1, 0, 1, 0, None]
    assert scored[4].reason == "no number in column 'answer'"
    assert reward.reads("answer")
    assert reward_named("exact_answer").kind == "exact_answer"


def test_difficulty_by_hand() -> None:
    """95 + 7: 5 + 7 carries, 9 + 1 carries. 100 − 1 borrows twice. 123 × 45 has six products of digits."""
    assert (carries(95, 7, "+"), carries(100, 1, "-"), carries(44, 33, "+")) == (2, 2, 0)
    assert (difficulty(95, 7, "+"), difficulty(100, 1, "-"), difficulty(123, 45, "*")) == (4, 5, 6)


def test_rows_are_right_and_no_two_splits_share_operands(tmp_path: Path) -> None:
    write_arithmetic(tmp_path, 300, 2)
    pairs: dict[str, set[frozenset[int]]] = {}
    for split in ("train", "validation", "test"):
        records = read_records(str(tmp_path / f"{split}.jsonl"))
        assert len(records) == (300 if split == "train" else 30)
        answers = ExactAnswerReward().scored(
            [r.prompt for r in records], [r.completions[0] for r in records], columns=columns_of(records)
        )
        assert [one.score for one in answers] == [1.0] * len(records)
        for record in records:
            a, operation, b = str(record.prompt).removeprefix("What is ").rstrip("?").split()
            pairs.setdefault(split, set()).add(frozenset((int(a), int(b))))
            assert record.columns["answer"] == eval(f"{a} {operation} {b}")
            assert record.columns["difficulty"] == difficulty(int(a), int(b), operation)
            assert split_of(int(b), int(a)) == split
    assert not pairs["train"] & (pairs["validation"] | pairs["test"])
    assert not pairs["validation"] & pairs["test"]
    assert list(arithmetic_rows("train", 9, 2)) == list(arithmetic_rows("train", 9, 2))
    assert list(arithmetic_rows("train", 9, 2)) != list(arithmetic_rows("train", 9, 2, seed=1))
    with pytest.raises(TrimtabError, match="1 digits make no more than"):
        list(arithmetic_rows("test", 100, 1))


def test_an_option_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for help, it once wrote its rows into a folder called --help."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert not list(tmp_path.iterdir())
    main(["sums", "30", "2"])
    assert len((tmp_path / "sums" / "train.jsonl").read_text().splitlines()) == 30
