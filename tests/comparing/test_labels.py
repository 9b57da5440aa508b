"""`trimtab compare --labels`: from two files and a file of votes to results, tables and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from readers.tool_files import write_lines
from trimtab.cli import app
from trimtab.evaluation.results import Results


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
