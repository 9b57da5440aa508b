"""What votes say: by themselves, beside a study's judge, and through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prefer.cast import cast, item, vote_all
from prefer.test_items import write_study
from trimtab.cli import app
from trimtab.errors import TrimtabError
from trimtab.formats import counted
from trimtab.prefer.items import items_of
from trimtab.prefer.numbers import people_of_votes, report_votes


def test_by_themselves(tmp_path: Path) -> None:
    """dpo wins 30 of 40; two persons who always agree. Training seeds, and what chance did not choose, apart."""
    items = [item(i, seed=i % 2) for i in range(40)] + [item(99, purpose="training")]

    def says(_: str, one: object) -> str:
        number = int(one.prompt_id[1:])  # type: ignore[attr-defined]
        return "second" if number < 10 else "first"

    found = report_votes(vote_all(tmp_path / "votes.sqlite", items, ["ann", "bob"], says))
    assert found.people is not None
    [number] = found.people.numbers
    assert {number.a, number.b} == {"dpo", "sft"}
    value = number.labels.value if number.a == "dpo" else 1 - number.labels.value
    assert (value, number.labelled, number.judge) == (0.75, 40, None)
    assert number.more_for_five is not None
    assert 200 < number.more_for_five < 400  # 1.96² · 0.19 / 0.05² = 292
    [people] = found.people.agreement
    assert (people.who, people.raw.value) == ("people", 1.0)
    assert found.voting.persons[0].others is not None
    assert found.voting.persons[0].others.n == 41
    assert "by people's 40 labels alone" in found.sentences[0]
    assert [table.name for table in found.tables] == ["people", "agreement", "voters"]
    assert people_of_votes([cast(items[-1], "ann", "left")], "x") is None
    with pytest.raises(TrimtabError, match="nobody has voted yet"):
        report_votes(vote_all(tmp_path / "none.sqlite", [], [], says))


def test_beside_a_studys_judge(tmp_path: Path) -> None:
    """The judge has dpo win 45 of 60 against the opponent, and people judge 30 of them alike."""
    scores = [1.0 if i % 4 else -1.0 for i in range(60)]
    study = write_study(tmp_path / "run", [0], scores)
    items = items_of([study], methods=["dpo"])[:30]
    path = vote_all(
        tmp_path / "votes.sqlite", items, ["ann"],
        lambda _, one: "first" if scores[int(one.prompt_id[1:])] > 0 else "second", 1,
    )  # fmt: skip
    run = CliRunner()
    done = run.invoke(app, ["prefer", "--report", str(path), study, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    [number] = told["people"]["numbers"]
    assert (number["a"], number["labelled"], number["rows"], number["judge"]["value"]) == ("dpo", 30, 60, 0.75)
    assert number["corrected"]["value"] == pytest.approx(0.75, abs=0.001)
    assert told["voting"]["persons"][0]["person"] == "ann"
    shown = run.invoke(app, ["prefer", "--report", str(path), study])
    for words in ("corrected by people", "Who voted how", "Judge and people", "More for ± 5"):
        assert words in shown.output
    compared = run.invoke(app, ["compare", study, "--labels", str(path), "--out", str(tmp_path / "out")])
    assert compared.exit_code == 0, compared.output
    assert "Who voted how" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "tables" / "voters.csv").is_file()


def test_the_command_exports(tmp_path: Path) -> None:
    path = vote_all(tmp_path / "votes.sqlite", [item(0), item(1)], ["ann"], lambda *_: "first", 1)
    run, out = CliRunner(), tmp_path / "deep" / "pairs.jsonl"
    done = run.invoke(app, ["prefer", "--export", "trl", "--out", str(out), str(path)])
    assert done.exit_code == 0, done.output
    assert "2 rows" in done.output
    assert len(out.read_text().splitlines()) == 2
    for words in (["--export", "trl", str(path)], ["--out", str(out), str(path)], ["--without", "ann"]):
        done = run.invoke(app, ["prefer", *words])
        assert "name all three" in str(done.exception)


def test_one_is_said_as_one() -> None:
    assert counted(1, "vote") == "1 vote"
    assert counted(0, "vote") == "0 votes"
    assert counted(1200, "person", "people") == "1,200 people"
