"""The audit of a data set: counts worked out by hand, markers that must show, and the real data's known faults."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from trimtab.audit import findings
from trimtab.audit.findings import Findings, MeasuringFormat, examine
from trimtab.audit.markers import find_markers
from trimtab.audit.oddities import ODD_CHARACTERS, alike_key, conflicts, matched_by_label, odd_characters
from trimtab.data.chat import ChatFormat, TruncationSettings
from trimtab.data.groups import CompletionGroup
from trimtab.data.records import Message, Record
from trimtab.data.splits import DataSettings
from trimtab.report.audit import audit_tables, write_audit

Write = Callable[..., Path]
ROWS: list[Any] = [
    {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green"},  # characters: 4, 5, 5
    {"prompt": "Sky?", "chosen": "Green", "rejected": "Blue."},  # the other way round
    {
        "prompt": "Sea?",
        "chosen": "Blue, and deep.",
        "rejected": "No.\u200b",
        "score_chosen": 1,
        "score_rejected": 1,
    },
    {"prompt": "Sea?", "chosen": "Same.", "rejected": "Same."},
    {"prompt": "Sun?", "chosen": " ", "rejected": "Hot."},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}], "label": True},
    {"instruction": "Moon?", "output": "Gray."},
    {"chosen": "a"},
    "{",
]


def test_counts_by_hand(write_jsonl: Write) -> None:
    """Two rows that can't be read, and one whose conversation has no answer; drops and doubts of the rest."""
    held_out = write_jsonl([{"prompt": "SKY!", "chosen": "a", "rejected": "b"}, ROWS[2]], "held_out.jsonl")
    found = examine(DataSettings(train=str(write_jsonl(ROWS)), validation=str(held_out)))
    assert found.layouts == {"pairs": 7, "Alpaca": 1}
    reasons = {next(iter(one.examples)): reason for reason, one in found.unreadable.items()}
    assert set(reasons) == {"rows.jsonl:6", "rows.jsonl:8", "rows.jsonl:9"}
    assert reasons["rows.jsonl:9"].startswith("not valid JSON")
    train = found.splits["train"]
    assert (train.rows, train.audit.pairs, train.audit.equal_scores, train.audit.duplicate_prompts) == (6, 5, 1, 2)
    assert {reason: one.examples for reason, one in train.dropped.items()} == {
        "empty completion": ["rows.jsonl:5"],
        "identical completions": ["rows.jsonl:4"],
    }
    assert train.conflicts.examples == ["rows.jsonl:1 against rows.jsonl:2"]
    assert {name.split()[0]: one.examples for name, one in train.odd_characters.items()} == {
        "zero-width": ["rows.jsonl:3"]
    }
    assert train.lengths["prompt"].maximum == 5
    assert train.lengths["chosen"].maximum == 15
    assert train.lengths["rejected"].mean == (5 + 5 + 4 + 5 + 4) / 5
    assert train.lengths["completion"].median == 5
    assert train.chosen_longer_share == 1 / 4  # of rows 1, 2, 3 and 5
    [shared] = found.shared_prompts
    assert (shared.first, shared.second, shared.rows, shared.exact, shared.alike.count) == (
        "train",
        "validation",
        2,
        1,
        2,
    )
    assert shared.alike.examples[0] == "rows.jsonl:1 and held_out.jsonl:1"


def test_conversations_and_turns(write_jsonl: Write) -> None:
    def turns(*roles: str) -> dict[str, Any]:
        return {"prompt": [{"role": role, "content": "x"} for role in roles], "chosen": "a", "rejected": "b"}

    rows = [
        turns("system", "user"),
        turns("user", "assistant", "user"),
        turns("user", "user"),
        turns("user", "assistant"),
    ]
    found = examine(DataSettings(train=str(write_jsonl(rows))))
    train = found.splits["train"]
    assert (train.conversations, train.system_prompts) == (3, 1)
    assert {reason: one.count for reason, one in train.dropped.items()} == {"turns out of order": 1}
    assert [reason[:19] for reason in found.unreadable] == ["the prompt ends wit"]


def test_lengths_in_tokens_are_those_of_training(write_jsonl: Write, qwen_tokenizer_dir: Path) -> None:
    """As transformers renders them; the prompt of row 2 leaves no room, the completion of row 1 is cut."""
    rows = [
        {"prompt": "Sky?", "chosen": "Blue " * 60, "rejected": "Green."},
        {"prompt": "Sky? " * 100, "chosen": "Blue.", "rejected": "Green."},
    ]
    settings = DataSettings(train=str(write_jsonl(rows)), max_length=64, min_completion_length=4)
    found = examine(settings, str(qwen_tokenizer_dir))
    train = found.splits["train"]
    tokenizer = AutoTokenizer.from_pretrained(qwen_tokenizer_dir)
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
            )
        )["input_ids"]
        for row in rows
    ]
    assert (found.unit, found.max_length) == ("tokens", 64)
    assert train.lengths["prompt"].maximum == max(map(len, prompts))
    assert train.lengths["rejected"].mean == len(tokenizer("Green.")["input_ids"]) + 1
    assert {reason: one.examples for reason, one in train.dropped.items()} == {"prompt too long": ["rows.jsonl:2"]}
    assert train.truncated == 1


def test_labels(write_jsonl: Write) -> None:
    """A line that 60 % of the desirable and 20 % of the undesirable completions hold is found; the prompt that
    has both is counted, and a completion with both labels is a contradiction."""
    random.seed(0)
    words = [f"w{i:03d}" for i in range(400)]
    rows = []
    for i in range(400):
        good = i % 2 == 0
        text = " ".join(random.sample(words, 20))
        if random.random() < (0.6 if good else 0.2):
            text += "\nConfidence: 80%"
        rows.append({"prompt": f"p{i}", "completion": text, "label": good})
    rows += [{"prompt": "p0", "completion": rows[0]["completion"], "label": False}]
    found = examine(DataSettings(train=str(write_jsonl(rows)))).splits["train"]
    assert found.labels is not None
    assert (found.labels.desirable, found.labels.undesirable, found.labels.prompts_with_both) == (200, 201, 1)
    assert [marker.text for marker in found.labels.markers if marker.significant] == ["confidence: #%"]
    assert found.conflicts.examples == ["rows.jsonl:1 against rows.jsonl:401"]
    assert set(found.lengths) == {"prompt", "desirable", "undesirable"}


def test_labels_that_say_nothing_have_no_markers() -> None:
    """20 data sets whose labels are drawn apart from the text: at 5 %, one false alarm is expected."""
    rng = random.Random(1)
    alarms = 0
    for seed in range(20):
        records = [
            Record(str(i), (rng.choice(["yes\nSure: 1", "no", "maybe so", "well"]),), labels=(rng.random() < 0.5,))
            for i in range(200)
        ]
        ups, downs, _ = find_markers(matched_by_label(records, seed))
        alarms += any(marker.significant for marker in [*ups, *downs])
    assert alarms <= 3


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("caf\ufffd", "replacement"),
        ("cafÃ© au lait", "UTF-8"),
        ("it\u00e2\u20ac\u2122s", "UTF-8"),
        ("a\x00b", "control"),
        ("a\r\nb", "carriage"),
        ("\ufeffa", "zero-width"),
        ("a\u202eb", "marks"),
        ("\ue123", "private-use"),
        ("<|im_end|>", "tokens"),
        ("[INST] a [/INST]", "tokens"),
    ],
)
def test_each_kind_of_odd_character(text: str, kind: str) -> None:
    """In a prompt, in a turn and in a completion; plain text of several scripts holds none."""
    for record in (Record(text, ("b",)), Record((Message("user", text),), ("b",)), Record("a", ("b", text))):
        assert [name.split()[0] for name in odd_characters([record])] == [kind]
    plain = "Où? “Naïve” — 東京 \U0001f469\u200d\U0001f4bb a<b>c [x]\tÃ l'été\n"
    assert odd_characters([Record(plain, (plain,))]) == {}
    assert len(ODD_CHARACTERS) == 8


def test_alike_and_conflicting() -> None:
    assert alike_key(Record("What is 2+2?", ())) == alike_key(Record((Message("user", "what is 2 + 2"),), ()))
    assert alike_key(Record("What is 2+2?", ())) != alike_key(Record("What is 2+3?", ()))
    same = [Record("p", ("a", "b"), origin="1"), Record("p", ("a", "b"), origin="2"), Record("q", ("b", "a"))]
    assert conflicts(same).count == 0


def test_real_ultrafeedback(shared_data: Path) -> None:
    """../shared/data/README.md: 4 identical, 111 of equal scores, 2 with an empty completion, chosen longer in
    55 %, and the marker "Confidence: N%", unaided."""
    folder = shared_data / "data" / "ultrafeedback"
    found = examine(DataSettings(train=str(folder / "train.jsonl"), validation=str(folder / "eval.jsonl")))
    train = found.splits["train"]
    assert (train.audit.identical_pairs, train.audit.equal_scores) == (4, 111)
    assert {reason: one.count for reason, one in train.dropped.items()} == {
        "empty completion": 2,
        "identical completions": 4,
    }
    assert train.chosen_longer_share == pytest.approx(0.55, abs=0.005)
    assert train.audit.markers[0].text == "confidence: #%"
    assert train.audit.markers[0].significant
    assert [(one.rows, one.exact) for one in found.shared_prompts] == [(200, 0)]


def test_a_sample_says_its_error(write_jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 of 9 pairs that differ: 1.96 · √((9 - 4) / (4 · 4 · (9 - 1))) = 1.96 · √(5 / 128) = 0.387."""
    rows = [{"prompt": f"q{i}", "chosen": f"a{i}", "rejected": f"b{i}" if i else "a0"} for i in range(10)]
    settings = DataSettings(train=str(write_jsonl(rows)))
    [whole] = [table.notes[0] for table in audit_tables(examine(settings)) if table.name == "markers"]
    monkeypatch.setattr(findings, "MAX_PAIRS", 4)
    [sample] = [table.notes[0] for table in audit_tables(examine(settings)) if table.name == "markers"]
    assert whole.startswith("Of 9 pairs; all lines and word sequences")
    assert sample.startswith(
        "Of 4 pairs, every so many of the 9 that differ: a share of all is within 38.7 points (95 %); all lines"
    )


def test_files_and_tables(write_jsonl: Write, tmp_path: Path) -> None:
    """audit.json reads back as it was; the page shows a hostile text as text."""
    rows = [*ROWS, {"prompt": "<script>|", "chosen": "a", "rejected": ""}]
    found = examine(DataSettings(train=str(write_jsonl(rows, "<b>.jsonl"))))
    page = write_audit(found, tmp_path / "new" / "out").read_text(encoding="utf-8")
    assert Findings.model_validate_json((tmp_path / "new" / "out" / "audit.json").read_text()) == found
    assert "&lt;b&gt;.jsonl:9" in page
    assert "<b>" not in page
    assert [table.name for table in audit_tables(found)] == ["rows", "reasons", "lengths", "markers", "characters"]
    assert all(len(row) == len(table.header) for table in audit_tables(found) for row in table.rows)
    assert json.loads((tmp_path / "new" / "out" / "audit.json").read_text())["schema_version"] == 1


def test_measuring_changes_no_token(make_tokenizer: Callable[..., Any]) -> None:
    """And notes lengths before the oldest exchange is taken away for want of room."""
    turns = tuple(Message(role, "the cat sat") for role in ("user", "assistant", "user"))
    record, whole = Record(turns, ("Blue.", "Green.")), ChatFormat(make_tokenizer())
    before, completions = whole.tokens(turns, record.completions)
    limit = TruncationSettings(max_length=len(before), min_completion_length=4)
    measuring = MeasuringFormat(make_tokenizer(), limit)
    group = measuring.encode(record)
    assert isinstance(group, CompletionGroup)
    assert group == ChatFormat(make_tokenizer(), limit).encode(record)
    assert len(group.prompt) < len(before)
    assert measuring.lengths == (len(before), [len(completion) for completion in completions])
