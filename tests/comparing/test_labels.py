"""`trimtab compare --labels`: from two files and a file of votes to results, tables and an exit code; and
`trimtab report --labels`: a study's own page with them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from readers.tool_files import write_lines
from trimtab.cli import app
from trimtab.comparing.labelled import report_labelled
from trimtab.errors import TrimtabError
from trimtab.evaluation.outputs import Generation, MethodOutputs, Score, write_rows
from trimtab.evaluation.results import Provenance, Results
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.readers.votes import labels_of


def test_the_command(tmp_path: Path) -> None:
    """The judge has b win 45 of 60; people say the same of 30 of them, drawn evenly."""
    won = [i % 4 != 0 for i in range(60)]
    prompts = [{"prompt": f"ask {i}", "id": f"p{i}", "completion": f"text {i}"} for i in range(60)]
    a = write_lines(tmp_path / "a.jsonl", [row | {"score": 0.0} for row in prompts])
    b = write_lines(
        tmp_path / "b.jsonl", [row | {"score": 1.0 if w else -1.0} for row, w in zip(prompts, won, strict=True)]
    )
    votes = [{"id": f"p{i}", "better": "b" if won[i] else "a", "who": "ann"} for i in range(0, 60, 2)]
    labels = write_lines(tmp_path / "votes.jsonl", votes)
    run, out = CliRunner(), tmp_path / "out"
    words = ["compare", str(a), str(b), "--labels", str(labels), "--map", "winner=better,person=who"]
    done = run.invoke(app, [*words, "--json", "--out", str(out), "--fail-if", "helped"])
    assert done.exit_code == 5, done.output
    told = json.loads(done.stdout)
    assert (told["people"]["votes"], told["people"]["persons"]) == (30, 1)
    results = Results.read(out / "results.json")
    assert results.people is not None
    [number] = results.people.numbers
    assert (number.a, number.b, number.labelled, number.rows) == ("b", "a", 30, 60)
    assert 'id="people"' in (out / "report.html").read_text()
    assert (out / "tables/people.csv").is_file()
    assert {s.name for s in results.provenance.settings} >= {"labels", "map"}
    shown = run.invoke(app, words)
    assert "b against a, corrected by people: " in shown.output
    assert "Judge and people" in shown.output


def test_wrong_labels_are_told_before_anything_is_read(tmp_path: Path) -> None:
    a = write_lines(tmp_path / "a.jsonl", [{"id": 1, "score": 1}])
    done = CliRunner().invoke(app, ["compare", str(a), str(a), "--labels", str(tmp_path / "gone.csv")])
    assert "gone.csv: no such file. Give people's labels as rows" in str(done.exception)


N = 60


def outputs(name: str, folder: Path, lead: float, draws: random.Random) -> MethodOutputs:
    """A method's answers and scores, which lie in its folder, too."""
    place = folder / "evaluation" / name
    place.mkdir(parents=True)
    rows = [
        Generation(id=str(i), prompt=f"ask {i}", completion=f"{name} {i}", tokens=3, terminated=True)
        for i in range(N)
    ]
    scores = [Score(id=str(i), score=draws.gauss(lead, 1)) for i in range(N)]
    write_rows(place / "generations.jsonl", rows)
    write_rows(place / "scores.jsonl", scores)
    return MethodOutputs(name, rows, scores)


def a_study(out: Path) -> StudyOutputs:
    """Two training seeds of two methods, base, and an opponent of another name than its folder's."""
    draws, seeds = random.Random(1), [out / f"seed-{seed}" for seed in (0, 1)]
    fixed = outputs("base", seeds[0], -0.3, draws)
    opponent = replace(outputs("opponent", seeds[0], 0.0, draws), name="some/model")
    per_seed = {
        seed: [outputs(name, seeds[seed], lead, draws) for name, lead in (("sft", 0.2), ("dpo", 0.8))]
        for seed in (0, 1)
    }
    return StudyOutputs(per_seed, [fixed], opponent)


def test_a_studys_page_with_labels_is_what_the_study_would_have_made(tmp_path: Path) -> None:
    out = tmp_path / "run"
    study = a_study(out)
    about = About("t", judge="j", provenance=Provenance(seeds=[0, 1], defaults={"evaluation.labels": "null"}))
    plain = summarise(study, about)
    plain.write(out / "results.json")
    draws = random.Random(2)
    votes = [
        {
            "id": str(i),
            "method_left": left,
            "method_right": right,
            "better": draws.choice(["left", "right"]),
            "seed": seed,
        }
        for i in range(0, N, 2)
        for left, right, seed in (("dpo", "opponent", 0), ("dpo", "sft", 1), ("base", "opponent", None))
    ]
    file = write_lines(tmp_path / "votes.jsonl", votes)
    before = {path: path.read_bytes() for path in out.rglob("*.jsonl")}
    assert report_labelled(out, file, ["winner=better"]) == out / "report.html"
    expected = summarise(replace(study, labels=labels_of(file, study, mapping={"winner": "better"})), about)
    found = Results.read(out / "results.json")
    assert expected.people is not None
    assert {(n.a, n.b) for n in expected.people.numbers} >= {("base", "some/model"), ("dpo", "sft")}
    assert (found.people, found.verdict, found.warnings) == (expected.people, expected.verdict, expected.warnings)
    assert (found.methods, found.comparisons) == (plain.methods, plain.comparisons)
    assert "Judged by people" in (out / "report.html").read_text()
    assert [(s.name, s.value) for s in found.provenance.settings] == [("evaluation.labels", str(file))]
    assert found.provenance.defaults == {}
    # Other labels take their place, as the command says it.
    file.write_text(file.read_text().split("\n", 1)[0] + "\n")
    done = CliRunner().invoke(app, ["report", str(out), "--labels", str(file), "--map", "winner=better"])
    assert done.output == f"Report: {out / 'report.html'}\n"
    again = Results.read(out / "results.json")
    assert again.people is not None
    assert again.people.votes == 1
    assert [s.name for s in again.provenance.settings] == ["evaluation.labels"]
    fewer = summarise(replace(study, labels=labels_of(file, study, mapping={"winner": "better"})), about)
    assert (again.verdict, again.warnings) == (fewer.verdict, fewer.warnings)
    assert {path: path.read_bytes() for path in before} == before


def test_labels_of_a_folder_without_completions(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "votes.jsonl", [{"id": "0", "winner": "a"}])
    with pytest.raises(TrimtabError, match=r"no results.json in it"):
        report_labelled(tmp_path, file)
    Results(name="t").write(tmp_path / "results.json")
    with pytest.raises(TrimtabError, match=r"no completions in it, which labels are of. Compare again with"):
        report_labelled(tmp_path, file)
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--map", "winner=x"])
    assert "--map is of --labels" in str(done.exception)
