"""The comparison of files, with win rates and differences by hand and on published scores."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from readers.tool_files import annotation, write_lines, write_list
from trimtab.cli import app
from trimtab.comparing.run import Asked, Compared, compare_sources
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.evaluation.verdict import find


def compare(*sources: Path | str, **asked: Any) -> Compared:
    return compare_sources(Asked([str(source) for source in sources], **{"n_resamples": 500} | asked))


def scored(path: Path, scores: Sequence[float | None], completion: str = "x") -> Path:
    rows = [{"prompt": f"ask {i}", "completion": f"{completion} {i}", "score": s} for i, s in enumerate(scores)]
    return write_lines(path, rows)


def rate(compared: Compared, name: str, metric: str = "win_rate") -> float | None:
    return compared.results.methods[name].value(metric)


def test_the_others_are_set_beside_the_first(tmp_path: Path) -> None:
    """2 won, 1 tied, 1 lost: 0.625; the mean score rises by (1 + 0 − 2 + 1) / 4."""
    a, b = scored(tmp_path / "a.jsonl", [1, 2, 3, 4]), scored(tmp_path / "b.jsonl", [2, 2, 1, 5])
    compared = compare(a, b)
    assert compared.results.opponent == "a"
    assert (rate(compared, "b"), rate(compared, "b", "win_rate_strict")) == (0.625, 0.5)
    difference = find(compared.results, "b", "a", "judge_score")
    assert difference is not None
    assert difference.difference == 0.0
    assert [(o.method, o.against, o.outcome) for o in compared.outcomes] == [("b", "a", "undecided")]


@pytest.mark.parametrize(("gain", "outcome"), [(1.0, "helped"), (-1.0, "hurt"), (0.0, "undecided")])
def test_outcomes(tmp_path: Path, gain: float, outcome: str) -> None:
    a, b = scored(tmp_path / "a.jsonl", [0.0] * 40), scored(tmp_path / "b.jsonl", [gain] * 40)
    compared = compare(a, b)
    assert compared.outcome == outcome


def test_a_source_that_is_the_first_once_more_is_still_compared(tmp_path: Path) -> None:
    """Even where it is called as a study's base is."""
    a, base = (scored(tmp_path / f"{name}.jsonl", [1, 2, 3, 4]) for name in ("a", "base"))
    compared = compare(a, base, scored(tmp_path / "c.jsonl", [2, 3, 4, 5]))
    pairs = [(c.a, c.b) for c in compared.results.comparisons if c.metric == "judge_score"]
    assert pairs == [("base", "a"), ("c", "a"), ("c", "base")]


def test_three_methods_against_a_named_opponent(tmp_path: Path) -> None:
    """One hurts: that is the outcome of all."""
    files = [scored(tmp_path / f"{name}.jsonl", [s] * 30) for name, s in (("up", 2.0), ("down", 0.0), ("mid", 1.0))]
    compared = compare(*files, opponent="mid")
    assert {o.method: o.outcome for o in compared.outcomes} == {"up": "helped", "down": "hurt"}
    assert compared.outcome == "hurt"
    with pytest.raises(TrimtabError, match=r"--opponent low: there is no such method. There are: up, down, mid"):
        compare(*files, opponent="low")


def test_a_name_of_the_catalogue_is_no_reason_to_turn_the_pair(tmp_path: Path) -> None:
    """SFT stands before DPO in a study's tables, and is the candidate here."""
    rows = [{"id": i, "score": s} for i, s in enumerate([0.0] * 40)]
    dpo = write_lines(tmp_path / "dpo.jsonl", [row | {"score_reference": 0.5} for row in rows])
    sft = write_lines(tmp_path / "sft.jsonl", [row | {"score": 1.0, "score_reference": 0.5} for row in rows])
    [outcome] = compare(dpo, sft).outcomes
    assert (outcome.method, outcome.against, outcome.outcome) == ("sft", "dpo", "helped")
    assert outcome.value == 1.0


def test_several_samples_of_a_prompt_count_once(tmp_path: Path) -> None:
    """a: 1, 3 and 0; b: 2, 2 and 1, 1. Of prompt 0 the pairs are won, won, lost, lost: a half; of prompt 1 all."""

    def rows(scores: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
        return [{"id": i, "score": s} for i, s in scores]

    a = write_lines(tmp_path / "a.jsonl", rows([(0, 1), (0, 3), (1, 0)]))
    b = write_lines(tmp_path / "b.jsonl", rows([(0, 2), (0, 2), (1, 1), (1, 1)]))
    compared = compare(a, b)
    assert rate(compared, "b") == 0.75
    counts = compared.results.methods["b"].win_counts
    assert counts is not None
    assert (counts.n, counts.ties) == (2, 1)


def test_preferences_are_averaged_as_alpaca_eval_does(tmp_path: Path) -> None:
    """(0.25 + 1 + 0.5) / 3; a share that was preferred is no win or loss of its own, but above a half it is won."""
    rows = [annotation(i, p) for i, p in enumerate((1.25, 2.0, 1.5, None))]
    compared = compare(write_list(tmp_path / "annotations.json", rows))
    assert rate(compared, "tiny") == pytest.approx(1.75 / 3)
    assert rate(compared, "tiny", "win_rate_strict") == pytest.approx(1 / 3)
    assert rate(compared, "tiny", "win_rate_ties_as_wins") == pytest.approx(2 / 3)
    assert compared.outcomes[0].against == "gpt4"


def test_what_is_missing_and_could_turn_it_is_withheld(tmp_path: Path) -> None:
    """30 of 40 won, and 30 more without a score: had these been lost, it would be 30 of 70."""
    a = scored(tmp_path / "a.jsonl", [0.0] * 70)
    b = scored(tmp_path / "b.jsonl", [1.0] * 30 + [-1.0] * 10 + [None] * 30)
    compared = compare(a, b)
    assert compared.outcome == "undecided"
    assert "no conclusion. 30 of 70 prompts have no score" in " ".join(compared.results.verdict)
    assert "30 prompts lack a score" in str(compared.outcomes[0].why)
    few = scored(tmp_path / "few.jsonl", [1.0] * 60 + [-1.0] * 6 + [None] * 4)
    assert compare(a, few).outcome == "helped"


def test_a_difference_of_what_is_missing_is_withheld(tmp_path: Path) -> None:
    """12 of 40 prompts of b are unjudged. Of +0.4 these leave at least +0.13, of +0.2 possibly nothing."""

    def judged(name: str, preferences: list[float | None]) -> Path:
        rows = [{"id": i, "completion": "x", "preference": p} for i, p in enumerate(preferences)]
        return write_lines(tmp_path / f"{name}.jsonl", rows)

    a = judged("a", [0.0] * 28 + [0.5] * 12)
    b = judged("b", [0.4] * 28 + [None] * 12)
    compared = compare(a, b)
    c = find(compared.results, "b", "a", "win_rate")
    assert c is not None
    assert (c.missing, c.n) == (12, 28)
    assert c.missing_bounds == pytest.approx(((0.4 * 28 - 0.5 * 12) / 40, (0.4 * 28 + 0.5 * 12) / 40))
    assert compared.outcome == "helped"  # even then it is ahead
    worse = judged("worse", [0.2] * 28 + [None] * 12)
    assert compare(a, worse).outcome == "undecided"


def test_missing_by_length_is_said(tmp_path: Path) -> None:
    rows = [{"id": i, "completion": "x" * (10 + i), "preference": 0.5 if i < 40 else None} for i in range(80)]
    [line] = [w for w in compare(write_lines(tmp_path / "b.jsonl", rows)).results.warnings if "random" in w]
    assert "the 40 completions without a score have 70 characters (median), those with one 30" in line


def test_what_has_no_scores_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "longer.py").write_text(
        "def score(prompts, completions, **_):\n    return [len(c) for c in completions]\n"
    )
    a = write_lines(tmp_path / "a.jsonl", [{"prompt": f"ask {i}", "completion": "ab"} for i in range(30)])
    b = write_lines(tmp_path / "b.jsonl", [{"prompt": f"ask {i}", "completion": "abc"} for i in range(30)])
    compared = compare(a, b, judge=f"{tmp_path / 'longer.py'}:score")
    assert rate(compared, "b", "judge_score") == 3.0
    assert (rate(compared, "b"), compared.outcome) == (1.0, "helped")
    with pytest.raises(TrimtabError, match=r"every source has scores"):
        compare(
            scored(tmp_path / "c.jsonl", [1]),
            scored(tmp_path / "d.jsonl", [2]),
            judge=f"{tmp_path / 'longer.py'}:score",
        )


def test_without_anything_to_compare_by(tmp_path: Path) -> None:
    a = write_lines(tmp_path / "a.jsonl", [{"prompt": "ask", "completion": "ab"}])
    b = write_lines(tmp_path / "b.jsonl", [{"prompt": "ask", "completion": "abc"}])
    compared = compare(a, b)
    assert compared.outcome == "undecided"
    assert rate(compared, "b", "characters") == 3.0
    with pytest.raises(TrimtabError, match=r"nothing to compare a with. Name a second source"):
        compare(a)


def test_the_same_file_name_twice(tmp_path: Path) -> None:
    a, b = scored(tmp_path / "one/out.jsonl", [1, 1]), scored(tmp_path / "two/out.jsonl", [2, 2])
    assert list(compare(a, b).results.methods) == ["two out"]
    assert list(compare(a, f"b={b}").results.methods) == ["b"]


def test_the_opponents_own_outputs_are_no_second_method(tmp_path: Path) -> None:
    """alpaca_eval's reference outputs beside annotations against them."""
    rows = [{"instruction": f"ask {i}", "output": f"baseline {i}", "generator": "gpt4"} for i in range(4)]
    reference = write_list(tmp_path / "reference.json", rows)
    judged = write_list(tmp_path / "annotations.json", [annotation(i, 2.0) for i in range(4)])
    for named in (None, "gpt4"):
        compared = compare(reference, judged, opponent=named)
        assert (list(compared.results.methods), compared.results.opponent) == (["tiny"], "gpt4")
        assert rate(compared, "tiny") == 1.0


# ---- published scores


def test_the_published_win_rates(shared_data: Path) -> None:
    """Of 200 prompts a method, each with an opponent's answer of its own: 0.36 and 0.44 count a tie as a win."""
    compared = compare(shared_data / "data/nemotron_scores/paper_eval_scores.csv")
    for metric, sft, dpo in (
        ("win_rate", 0.330, 0.4325),
        ("win_rate_ties_as_wins", 0.36, 0.44),
        ("win_rate_strict", 0.300, 0.425),
    ):
        assert (rate(compared, "sft", metric), rate(compared, "dpo", metric)) == (
            pytest.approx(sft), pytest.approx(dpo),
        )  # fmt: skip
    c = find(compared.results, "dpo", "sft", "win_rate")
    assert c is not None
    assert c.difference == pytest.approx(0.1025)
    assert c.ci95[0] < 0.1025 < c.ci95[1]
    assert c.n == 200
    assert compared.results.opponent == "reference"
    assert any("reference: on 34 of 200 prompts" in line for line in compared.results.warnings)


def test_the_published_win_rates_of_alpaca_eval(shared_data: Path) -> None:
    folder = shared_data / "data/length_control"
    published = {row["model"]: row for row in csv.DictReader((folder / "published.csv").open())}
    with gzip.open(folder / "annotations.csv.gz", "rt") as file:
        models = sorted({row["model"] for row in csv.DictReader(file)})
    assert len(models) == 8
    for model in models:
        alone = compare(f"{folder / 'annotations.csv.gz'}:{model}", n_resamples=10)
        given = float(published[model]["win_rate"])
        assert 100 * (rate(alone, model) or 0) == pytest.approx(given, abs=1e-9), model


def test_best_of_16_concludes_nothing(shared_data: Path, tmp_path: Path) -> None:
    """39 to 65 % of each reward model's picks were never judged, and these are the longest."""
    with gzip.open(shared_data / "data/best_of_16/bon16.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    files = []
    for i, model in enumerate(rows[0]["rm_bon_pick"]):
        picked = [(row, row["rm_bon_pick"][model]) for row in rows]
        files.append(write_lines(tmp_path / f"m{i}.jsonl", [
            {
                "id": row["id"], "preference": row["preference_vs_gpt35"][k],
                "characters": len(row["outputs"][k]), "characters_opponent": len(row["reference_gpt35"]),
            }
            for row, k in picked
        ]))  # fmt: skip
    compared = compare(*files, n_resamples=200)
    assert all(
        0.39 <= c.missing / (c.n + c.missing) <= 0.66
        for m in compared.results.methods.values()
        if (c := m.win_counts) is not None
    )
    assert {o.outcome for o in compared.outcomes} == {"undecided"}
    said = " ".join(compared.results.verdict)
    assert not any(word in said for word in ("beats", "loses", "helped", "hurt", "equal length"))
    assert sum("not missing at random" in line for line in compared.results.warnings) == 5  # of six


# ---- the command


def test_exit_codes_json_and_report(tmp_path: Path) -> None:
    a, b = scored(tmp_path / "a.jsonl", [0.0] * 40), scored(tmp_path / "b.jsonl", [-1.0] * 40)
    run = CliRunner()
    out = tmp_path / "out"
    done = run.invoke(app, ["compare", str(a), str(b), "--json", "--out", str(out), "--fail-if", "undecided,hurt"])
    assert done.exit_code == 3, done.output
    told = json.loads(done.stdout)
    assert (told["outcome"], told["outcomes"][0]["method"]) == ("hurt", "b")
    assert Results.read(out / "results.json").methods["b"].value("win_rate") == 0.0
    assert "b loses to a" in (out / "report.html").read_text()
    assert (out / "tables/methods.csv").is_file()
    assert run.invoke(app, ["compare", str(a), str(b), "--fail-if", "undecided"]).exit_code == 0
    assert run.invoke(app, ["compare", str(a), f"c={a}", "--fail-if", "undecided"]).exit_code == 4


def test_each_warning_is_said_once(tmp_path: Path) -> None:
    """One while a source is read, one of the results: both on the screen and in the JSON, each once."""
    rows = [{"prompt": f"ask {i}", "completion": "x", "score": float(i % 2)} for i in range(20)]
    a = write_lines(tmp_path / "a.jsonl", [*rows, {"prompt": "ask 20", "completion": "x", "score": "who knows"}])
    b = write_lines(tmp_path / "b.jsonl", rows)
    done = CliRunner().invoke(app, ["compare", str(a), str(b)])
    said = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(said) == len(set(said)), said
    assert [line for line in said if "could not be read" in line or "no score" in line]
    assert [line for line in said if "Only 20 prompts" in line]


def test_a_plan_from_a_pilot_or_from_assumptions(tmp_path: Path) -> None:
    """sd ½ a prompt without a pilot: 2.802 · 0.5 / √400 = 7.0 points. A pilot of which nine in ten are tied varies
    less, and one without scores says nothing."""

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, ["compare", *words])
        return done.stdout if done.exit_code == 0 else str(done.exception)

    assert said("--plan", "--prompts", "400").startswith("400 test prompts show a gain of 7.0 points of win rate")
    a = scored(tmp_path / "a.jsonl", [0.0] * 100)
    b = scored(tmp_path / "b.jsonl", [0.0] * 90 + [1.0, -1.0] * 5)
    pilot = said(str(a), str(b), "--plan")
    assert pilot.startswith("100 test prompts show a gain of ")
    assert float(pilot.split(" gain of ")[1].split()[0]) < 7.0, pilot
    assert "as differences vary in these sources" in pilot
    text = write_lines(tmp_path / "c.jsonl", [{"prompt": f"ask {i}", "completion": "x"} for i in range(100)])
    assert "there is no win rate in these sources" in said(str(text), f"d={text}", "--plan", "--prompts", "50")
    assert "--prompts 300, or name" in said("--plan")
    assert "Name two sources" in said()
    assert "are of --plan" in said(str(a), str(b), "--seeds", "2")
    assert "leave out --out" in said(str(a), str(b), "--plan", "--json")


def test_another_ones_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text("")
    a = scored(tmp_path / "a.jsonl", [1])
    with pytest.raises(TrimtabError, match=r"is the folder of a study. Choose another --out"):
        compare(a, a, out=tmp_path / "run")


def test_a_comparison_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    a, b = scored(tmp_path / "a.jsonl", [0.0] * 5), scored(tmp_path / "b.jsonl", [1.0] * 5)
    program = (
        "import sys; from pathlib import Path; from trimtab.comparing.run import Asked, compare_sources; "
        f"compare_sources(Asked([{str(a)!r}, {str(b)!r}], out=Path({str(tmp_path / 'out')!r}), n_resamples=99)); "
        "print(*(m for m in ('torch', 'transformers', 'datasets', 'pandas') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    assert (tmp_path / "out/report.html").is_file()
