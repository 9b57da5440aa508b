"""The share of a prompt's instructions that hold, as a reward of training and as a judge."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from if_verifiable.common import evaluate_instructions
from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
from langdetect import DetectorFactory

from trimtab.command_settings import stage_settings
from trimtab.data.records import Record, read_records
from trimtab.errors import TrimtabError
from trimtab.evaluation.measure import judged_by
from trimtab.evaluation.outputs import Generation
from trimtab.evaluation.scoring import score_all
from trimtab.instructions.checks import COLUMNS, check_rows
from trimtab.notices import collected
from trimtab.rewards.base import Reward
from trimtab.rewards.settings import make_reward, reward_given, reward_named
from trimtab.study.run import run_alone
from trimtab.training.metrics import read_metrics

COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"
ROW = {"instruction_id_list": [COMMA, WORDS, COMMA], "kwargs": [{}, {"num_words": 4, "relation": "less than"}, {}]}


def reward(**settings: Any) -> Reward:
    return make_reward([reward_given({"kind": "instructions", **settings}, "reward")], {})


def scores(reward: Reward, *completions: str, row: dict[str, Any] = ROW) -> list[float | None]:
    columns = {name: [value] * len(completions) for name, value in row.items()}
    return [found.score for found in reward.scored(["p"] * len(completions), completions, columns=columns)]


def test_the_score_is_the_share_that_holds() -> None:
    answers = ("Two words", "One, two", "One two three four", "One, two, three, four", "", "*\none two three\n*, *")
    third = pytest.approx(1 / 3)
    assert scores(reward(), *answers) == [1.0, third, pytest.approx(2 / 3), 0.0, 0.0, third]
    assert scores(reward(score="all"), *answers) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert scores(reward(mode="loose"), *answers) == [1.0, third, pytest.approx(2 / 3), 0.0, 0.0, 1.0]
    assert scores(reward(score="all", mode="loose"), *answers) == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_the_breakdown_has_each_instruction() -> None:
    (found,) = reward(name="if").scored(["p"], ["One, two"], columns={name: [v] for name, v in ROW.items()})
    assert found.breakdown == {COMMA: 0, WORDS: 1, f"{COMMA} (2)": 0}
    (none,) = reward().scored(["p"], ["x"], columns={name: [None] for name in COLUMNS})
    assert (none.score, none.reason) == (None, "the prompt has no instructions")
    assert scores(reward(), "x", row={}) == [None]


def test_two_ways_to_score_are_two_rewards() -> None:
    both = [reward_given({"kind": "instructions", "mode": mode}, "reward") for mode in ("strict", "loose")]
    assert both[0].identity != both[1].identity
    assert (
        len(
            {reward(mode=mode, score=score).signature for mode in ("strict", "loose") for score in ("share", "all")}
        )
        == 4
    )
    assert reward_named("instructions") == both[0]
    assert [reward().reads(column) for column in (*COLUMNS, "key")] == [True, True, False]


def test_without_the_package_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "punkt" else object())
    with pytest.raises(TrimtabError, match=r"not installed \(punkt\)\. .*pip install 'trimtab\[instructions\]'"):
        reward_named("instructions").check()


def test_ifevals_prompts_are_all_read(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 541, whose own prompts as answers have the scores that the package's loop gives; but for two letters that
    are none, which it draws at random, and for one line of capitals, which are read here as small letters."""
    monkeypatch.setattr(DetectorFactory, "seed", 0)
    records = read_records(str(shared_data / "data" / "ifeval" / "prompts.jsonl"))
    assert (len(records), check_rows(records)) == (541, 0)
    answers = [record.prompt_text.strip() for record in records]
    columns = {column: [record.columns[column] for record in records] for column in COLUMNS}
    theirs = [
        evaluate_instructions(answer, ids, given, "", INSTRUCTION_DICT)[1]
        for answer, ids, given in zip(answers, *columns.values(), strict=True)
    ]
    drawn = {
        i for i, given in enumerate(columns["kwargs"]) if any(one.get("letter") in ("#", "!") for one in given)
    }
    assert len(drawn) == 2
    for mode, expected, total, every in (
        ("strict", [one.partial_strict for one in theirs], 195.666667, 134),
        ("loose", [one.partial_loose for one in theirs], 218.5, 161),
    ):
        found = reward(mode=mode).scored([""] * 541, answers, columns=columns)
        held = [one.score for one in found if one.score is not None]
        other = {i for i in range(541) if held[i] != pytest.approx(expected[i])}
        assert other <= drawn | ({476} if mode == "loose" else set())
        assert (round(sum(held), 6), held.count(1.0)) == (total, every)


def write_rows(file: Path, *ids: list[str] | None) -> str:
    rows = [
        {"prompt": f"Name {i}", **({} if of is None else {"instruction_id_list": of})} for i, of in enumerate(ids)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_grpo_trains_on_them(tiny_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [COMMA], [COMMA, "startend:quotation"], None, [COMMA])
    sets = ["batch_size=4", "samples=2", "max_steps=1", "warmup_steps=0", "sampling.max_new_tokens=4"]
    with collected() as told:
        out = run_alone(
            "grpo",
            str(tiny_model_dir()),
            *stage_settings("grpo", data, None, sets, ["instructions"]),
            tmp_path / "g",
            None,
        )
    rows = read_metrics(out.parent / "completions.jsonl")
    assert len(rows) == 8
    for row in rows:
        asked = [name for name in (COMMA, "startend:quotation") if name in row]
        assert row.get("reason") == (None if asked else "the prompt has no instructions")
        assert not asked or row["reward"] == sum(row[name] for name in asked) / len(asked)
    assert {len([name for name in row if ":" in name]) for row in rows} == {0, 1, 2}
    assert "1 of 4 prompts have no instructions, and so no score" in told.lines
    assert not any("not used" in line for line in told.lines), "the columns are read"


def test_an_unknown_instruction_is_told_at_the_start(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [COMMA], ["punctuation:no_coma"])
    for method in ("grpo", "online_dpo"):
        with pytest.raises(TrimtabError, match=r"rows\.jsonl:2: .*no_coma'. Did you mean punctuation:no_comma\?"):
            run_alone(
                method,
                "no/model",
                *stage_settings(method, data, None, [], ["instructions"]),
                tmp_path / method,
                None,
            )


def test_a_judge_asks_each_prompts_instructions(tmp_path: Path) -> None:
    def records(*ids: list[str]) -> list[Record]:
        return read_records(write_rows(tmp_path / "rows.jsonl", *ids))

    judge, rows = reward(), records([COMMA], [COMMA, "startend:quotation"])
    answers = [Generation(id=name, prompt="", completion="Yes, no.", tokens=1, terminated=True) for name in "ab"]
    assert [score.breakdown for score in score_all(judge, rows, answers)] == [
        {COMMA: 0},
        {COMMA: 0, "startend:quotation": 0},
    ]
    judged = judged_by(judge, rows)
    assert judged == judged_by(judge, records([COMMA], [COMMA, "startend:quotation"]))
    assert judged != judged_by(judge, records([COMMA], ["startend:quotation"])), "other instructions, other scores"
    assert judged.startswith(judge.signature)
