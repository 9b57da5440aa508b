"""Every format, read whole: nothing lost, and what cannot be used said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from readers.tool_files import (
    annotation,
    inspect_header,
    inspect_sample,
    lm_eval_row,
    write_eval,
    write_lines,
    write_list,
)
from trimtab.errors import TrimtabError
from trimtab.notices import collected
from trimtab.readers.columns import NAMES, Reading, columns_for, mapping_of
from trimtab.readers.formats import parts_of, read_source
from trimtab.readers.rows import MethodRows, Side


def read(path: Path | str, *mapping: str, opponent: str | None = None) -> list[MethodRows]:
    return read_source(str(path), Reading(mapping_of(mapping), opponent))


# ---- rows


def test_prompt_completion_and_score(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "x", "score": "1.5"}, {"prompt": "b", "completion": "", "score": None}]
    [method] = read(write_lines(tmp_path / "mine.jsonl", rows))
    assert method.name == "mine"
    assert [(r.prompt, r.side.completion, r.side.score, r.side.length) for r in method.rows] == [
        ("a", "x", 1.5, 1),
        ("b", "", None, 0),
    ]
    assert method.rows[1].side.reason == "the score is null"
    assert not method.has_opponent


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "t.csv").write_text('prompt,completion,score\n"a, b",x,1\nc,y,2\n')
    pq.write_table(
        pa.table({"prompt": ["a, b", "c"], "completion": ["x", "y"], "score": [1, 2]}), tmp_path / "t.parquet"
    )
    assert read(tmp_path / "t.csv")[0].rows == read(tmp_path / "t.parquet")[0].rows


def test_a_column_of_methods_is_several_methods(tmp_path: Path) -> None:
    rows = [{"method": m, "id": i, "score": i} for m in ("sft", "dpo") for i in range(2)]
    assert [(m.name, len(m.rows)) for m in read(write_lines(tmp_path / "t.jsonl", rows))] == [
        ("sft", 2),
        ("dpo", 2),
    ]


def test_an_opponent_in_every_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "method,prompt_index,score_model,score_reference,chars_model,chars_reference\nsft,0,-1.5,-1,10,20\n"
    )
    [method] = read(tmp_path / "t.csv")
    assert (method.name, method.opponent, method.rows[0].key) == ("sft", "reference", "0")
    side, other = method.rows[0].side, method.rows[0].opponent
    assert other is not None
    assert (side.score, side.length, other.score, other.length) == (-1.5, 10, -1.0, 20)


def test_other_names_by_map(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"q": "a", "text": "x", "scores": {"helpful": 3}}])
    [method] = read(path, "prompt=q,completion=text", "score=scores.helpful")
    assert (method.rows[0].prompt, method.rows[0].side.completion, method.rows[0].side.score) == ("a", "x", 3.0)
    with pytest.raises(
        TrimtabError, match=r"--map score=reward: there is no such column. There are: q, text, scores"
    ):
        read(path, "score=reward")
    with pytest.raises(TrimtabError, match=r"--map scoer=x: write NAME=COLUMN with a name of id, prompt"):
        read(path, "scoer=x")
    with pytest.raises(TrimtabError, match=r"no completions, scores or preferences. Columns found: q, text"):
        read(path)


def test_every_name_of_map_is_read() -> None:
    """A name that --map takes and nothing reads would be a setting without an effect."""
    found, _ = columns_for(["x"], dict.fromkeys(NAMES, "x"))
    assert set(found) == set(NAMES)


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": 1, "score": "good"}\n{"id": 2, "score": 2}\nnot json\n')
    with collected() as told:
        [method] = read(path)
    assert [row.key for row in method.rows] == ["2"]
    assert "2 rows could not be read and are left out" in told.lines[0]


def test_scores_on_two_scales_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"id": 1, "score": "8/10"}, {"id": 2, "score": 8}])
    with pytest.raises(TrimtabError, match=r"different scales: shares of 10 \('8/10'\) and numbers \('8'\)"):
        read(path)


# ---- preferences


def test_alpaca_evals_annotations(tmp_path: Path) -> None:
    """Of a folder, too. 2 is the model; 0 is a draw, as alpaca_eval counts it."""
    rows = [annotation(0, 1.25), annotation(1, 2.0), annotation(2, None), annotation(3, 0.0)]
    write_list(tmp_path / "tiny" / "weighted" / "annotations.json", rows)
    [method] = read(tmp_path / "tiny")
    assert (method.name, method.opponent, method.judge) == ("tiny", "gpt4", "weighted_alpaca_eval_gpt4_turbo")
    assert [row.preference for row in method.rows] == [0.25, 1.0, None, 0.5]
    assert all(row.judged for row in method.rows)
    first = method.rows[0]
    assert first.opponent is not None
    assert (first.prompt, first.side.completion, first.opponent.completion) == ("ask 0", "answer 0", "baseline 0")


def test_alpaca_evals_outputs(tmp_path: Path) -> None:
    path = write_list(tmp_path / "model_outputs.json", [{"instruction": "a", "output": "x", "generator": "tiny"}])
    [method] = read(path)
    assert (method.name, method.rows[0].prompt, method.rows[0].side.completion) == ("tiny", "a", "x")


def battle(i: int, a: str, b: str, winner: str) -> dict[str, Any]:
    def talk(who: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"{who} {i}"}]

    return {
        "question_id": f"q{i}", "model_a": a, "model_b": b, "winner": winner,
        "conversation_a": talk(a), "conversation_b": talk(b),
    }  # fmt: skip


def test_lmarenas_battles_are_turned_to_one_opponent(tmp_path: Path) -> None:
    rows = [battle(0, "x", "y", "model_a"), battle(1, "y", "x", "model_a"), battle(2, "x", "y", "tie")]
    [method] = read(write_lines(tmp_path / "t.jsonl", rows))
    assert (method.name, method.opponent) == ("x", "y")
    assert [(r.prompt, r.side.completion, r.preference) for r in method.rows] == [
        ("ask 0", "x 0", 1.0),
        ("ask 1", "x 1", 0.0),
        ("ask 2", "x 2", 0.5),
    ]


def test_battles_of_many_need_the_name_of_one(tmp_path: Path) -> None:
    rows = [battle(0, "x", "y", "model_a"), battle(1, "z", "x", "model_b"), battle(2, "y", "z", "tie")]
    path = write_lines(tmp_path / "t.jsonl", rows)
    with pytest.raises(TrimtabError, match=r"battles of 3 models. Name the one"):
        read(path)
    with collected() as told:
        methods = read(path, opponent="x")
    assert [(m.name, [r.preference for r in m.rows]) for m in methods] == [("y", [0.0]), ("z", [0.0])]
    assert "a battle without x" in told.lines[0]


def test_preferred_by_letter(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response_a": "x", "response_b": "y", "preferred": w} for w in ("a", "b", "tie")]
    [method] = read(write_lines(tmp_path / "t.jsonl", rows))
    assert [row.preference for row in method.rows] == [1.0, 0.0, 0.5]


# ---- layouts of training data


def test_pairs_are_chosen_against_rejected(tmp_path: Path) -> None:
    row = {"prompt": "ask", "chosen": "x", "rejected": "y", "score_chosen": 4, "score_rejected": 1}
    [method] = read(write_lines(tmp_path / "pairs.jsonl", [row]))
    assert (method.name, method.opponent) == ("chosen answers", "rejected answers")
    side, other = method.rows[0].side, method.rows[0].opponent
    assert other is not None
    assert (side.completion, side.score, other.completion, other.score) == ("x", 4.0, "y", 1.0)


def test_labels_are_scores(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "x"}]
    [method] = read(write_list(tmp_path / "kto.json", [{"messages": talk, "label": False}]))
    assert (method.name, method.rows[0].prompt, method.rows[0].side) == ("kto", "ask", Side("x", 0.0))


@pytest.mark.parametrize("name", ["hh_prompt_chosen_rejected.jsonl", "kto.json", "sharegpt_dpo.json"])
def test_real_rows_of_other_layouts(shared_data: Path, name: str) -> None:
    [method] = read(shared_data / "data/other_formats" / name)
    assert len(method.rows) == 300
    assert all(row.prompt and row.side.completion is not None for row in method.rows)


# ---- lm-eval


def test_lm_evals_samples(tmp_path: Path) -> None:
    rows = [lm_eval_row(i, score) for i, score in enumerate((1.0, 0.0))]
    [method] = read(write_lines(tmp_path / "samples_sums_2026-11-29T10-00-00.jsonl", rows))
    assert method.judge == "lm-eval's exact_match"
    assert [(r.key, r.prompt, r.side.completion, r.side.score) for r in method.rows] == [
        ("0", "Q: ask 0\nA:", " answer 0", 1.0),
        ("1", "Q: ask 1\nA:", " answer 1", 0.0),
    ]


def test_lm_evals_filters_and_metrics_are_told_apart(tmp_path: Path) -> None:
    """Each document comes once a filter: read as rows, it would count twice."""
    more = {"metrics": ["exact_match", "f1"], "f1": 0.5}
    rows = [lm_eval_row(i, float(f == "strict"), f, **more) for f in ("strict", "flexible") for i in range(2)]
    path = write_lines(tmp_path / "samples_t.jsonl", rows)
    with collected() as told:
        [method] = read(path)
    assert [r.side.score for r in method.rows] == [1.0, 1.0]
    assert "left out: f1, filter flexible" in told.lines[0]
    assert [r.side.score for r in read(path, "score=f1")[0].rows] == [0.5, 0.5]
    with pytest.raises(TrimtabError, match=r"no metric 'acc'. It has: exact_match, f1"):
        read(path, "score=acc")


def test_a_folder_of_lm_evals(tmp_path: Path) -> None:
    write_lines(tmp_path / "out/model/samples_t_2026.jsonl", [lm_eval_row(0, 1.0)])
    assert [(m.name, len(m.rows)) for m in read(tmp_path / "out")] == [("out", 1)]
    write_lines(tmp_path / "out/model/samples_u_2026.jsonl", [lm_eval_row(0, 1.0)])
    with pytest.raises(TrimtabError, match=r"2 files of samples. Name one"):
        read(tmp_path / "out")


def test_a_choice_by_likelihood_has_no_text(tmp_path: Path) -> None:
    row = lm_eval_row(0, None, resps=[[["-3.2", "False"]], [["-1.0", "True"]]], metrics=["acc"], acc=1.0)
    [method] = read(write_lines(tmp_path / "samples_t.jsonl", [row]))
    assert (method.rows[0].side.completion, method.rows[0].side.score) == (None, 1.0)


# ---- inspect


@pytest.mark.parametrize("zstd", [True, False])
def test_inspects_archives(tmp_path: Path, zstd: bool) -> None:
    samples = [inspect_sample(i, value) for i, value in enumerate("CIPN")]
    [method] = read(write_eval(tmp_path / "log.eval", samples, zstd=zstd))
    assert (method.name, method.judge) == ("model", "inspect's match")
    assert [r.side.score for r in method.rows] == [1.0, 0.0, 0.5, 0.0]
    first = method.rows[0]
    assert (first.prompt, first.side.completion, first.side.tokens, first.side.terminated) == (
        "ask 0", "answer 0", 5, True,
    )  # fmt: skip


def test_inspects_json_holds_the_same(tmp_path: Path) -> None:
    samples = [inspect_sample(i, value) for i, value in enumerate("CI")]
    (tmp_path / "log.json").write_text(json.dumps(inspect_header() | {"samples": samples}))
    assert read(tmp_path / "log.json")[0].rows == read(write_eval(tmp_path / "log.eval", samples))[0].rows


def test_inspects_epochs_attachments_messages_and_failures(tmp_path: Path) -> None:
    long = {"attachments": {"abc": "a long text"}, "input": "attachment://abc"}
    chat = {"input": [{"role": "system", "content": "s"}, {"role": "user", "content": "ask"}]}
    failed = {"scores": None, "error": {"message": "no answer"}, "output": {"choices": []}}
    samples = [
        inspect_sample("a", "C", 1, **long), inspect_sample("a", "I", 2, **long),
        inspect_sample("b", 0.25, **chat), inspect_sample("c", None, **failed),
    ]  # fmt: skip
    with collected() as told:
        [method] = read(write_eval(tmp_path / "log.eval", samples, status="error"))
    assert [(r.key, r.prompt, r.side.score) for r in method.rows] == [
        ("a", "a long text", 1.0), ("a", "a long text", 0.0), ("b", "ask", 0.25), ("c", "ask c", None),
    ]  # fmt: skip
    assert method.rows[3].side.reason == "the sample failed: no answer"
    assert "ended with status error" in told.lines[0]


def test_one_of_several_scorers(tmp_path: Path) -> None:
    scores = {"match": {"value": "C"}, "graded": {"value": {"tone": 2, "facts": 5}}}
    path = write_eval(tmp_path / "log.eval", [inspect_sample(0, "C", scores=scores)])
    assert read(path)[0].rows[0].side.score == 1.0
    assert read(path, "score=graded.facts")[0].rows[0].side.score == 5.0
    with pytest.raises(TrimtabError, match=r"no scorer 'none'. It has: match, graded"):
        read(path, "score=none")


def test_several_grades_of_a_scorer_are_no_zero(tmp_path: Path) -> None:
    """inspect's own mean counts each such sample as 0."""
    scores = {"graded": {"value": {"tone": 2, "facts": 5}}}
    path = write_eval(tmp_path / "log.eval", [inspect_sample(i, "C", scores=scores) for i in range(3)])
    with collected() as told:
        [method] = read(path)
    assert method.rows == []
    assert "3 rows could not be read" in told.lines[0]
    assert "several named ones. Name one, as in --map" in told.lines[0]
    assert [row.side.score for row in read(path, "score=graded.tone")[0].rows] == [2.0, 2.0, 2.0]


def test_a_spoilt_archive_is_one_line(tmp_path: Path) -> None:
    path = write_eval(tmp_path / "log.eval", [inspect_sample(0, "C")])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TrimtabError, match=r"log.eval: not a readable log of inspect"):
        read(path)


# ---- trimtab's own folders, and names


def write_evaluation(place: Path, scores: list[float | None], prompts: list[str] | None = None) -> None:
    asked = prompts or [f"ask {i}" for i in range(len(scores))]
    write_lines(
        place / "generations.jsonl",
        [
            {"id": str(i), "prompt": p, "completion": f"{place.name} {i}", "tokens": 3, "terminated": True}
            for i, p in enumerate(asked)
        ],
    )
    reasons = [None if s is not None else "timeout" for s in scores]
    rows = [
        {"id": str(i), "score": s, "reason": r, "breakdown": {}}
        for i, (s, r) in enumerate(zip(scores, reasons, strict=True))
    ]
    write_lines(place / "scores.jsonl", rows)


def test_a_studys_folder(tmp_path: Path) -> None:
    """With seeds of what was trained, one base, and the opponent in every row."""
    write_evaluation(tmp_path / "seed-0/evaluation/base", [1, 2])
    write_evaluation(tmp_path / "seed-0/evaluation/opponent", [3, 3])
    for seed in (0, 1):
        write_evaluation(tmp_path / f"seed-{seed}/evaluation/dpo", [4 + seed, None])
    (tmp_path / "results.json").write_text(json.dumps({"opponent": "big", "judge": "gold"}))
    methods = read(tmp_path)
    assert [(m.name, m.seed, m.opponent, m.judge) for m in methods] == [
        ("base", None, "big", "gold"),
        ("dpo", 0, "big", "gold"),
        ("dpo", 1, "big", "gold"),
    ]
    rows = methods[2].rows
    assert [(r.side.score, r.side.reason, r.opponent and r.opponent.score) for r in rows] == [
        (5, None, 3),
        (None, "timeout", 3),
    ]
    assert [m.name for m in read(f"{tmp_path}:dpo")] == ["dpo", "dpo"]
    assert [(m.name, m.opponent) for m in read(f"{tmp_path}:big")] == [("big", None)]
    with pytest.raises(TrimtabError, match=r"no method 'sft' in it. It has: base, dpo, big"):
        read(f"{tmp_path}:sft")


def test_one_training_seed_is_said(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "run/seed-3/evaluation/dpo", [1])
    with collected() as told:
        assert [(m.name, m.seed) for m in read(tmp_path / "run")] == [("dpo", None)]
    assert told.lines == [
        "run: one training seed: the intervals hold for other prompts, not for another training run"
    ]


def test_an_evaluation_is_called_as_its_folder(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "mine/evaluation/model", [1])
    assert [m.name for m in read(tmp_path / "mine")] == ["mine"]
    assert [m.name for m in read(f"better={tmp_path / 'mine'}")] == ["better"]


def test_what_is_not_there_or_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(TrimtabError, match=r"no such file or folder. Give a folder of trimtab"):
        read(tmp_path / "none")
    with pytest.raises(TrimtabError, match=r"nothing to compare in it"):
        read(tmp_path)


def test_paths_with_marks_in_their_names(tmp_path: Path) -> None:
    odd = tmp_path / "a=b:c.jsonl"
    odd.write_text("")
    assert parts_of(str(odd)) == ("", odd, "")
    assert parts_of(f"n={odd}:m") == ("n", odd, "m")
