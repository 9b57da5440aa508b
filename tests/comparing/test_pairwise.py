"""`compare --judge` with a judge of pairs: whose answers it sees beside whose, and what its biases do."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from servers.judge_server import Biases, judging
from trimtab.cli import app
from trimtab.comparing.run import Asked, compare_sources
from trimtab.errors import TrimtabError


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answers(name: str, qualities: list[float]) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "completion": f"{name}, quality {q:.3f}"} for i, q in enumerate(qualities)]


def sources(folder: Path, count: int, lead: float = 0.5) -> tuple[list[str], float]:
    """Two files, and the share of prompts on which b is the better."""
    draws = random.Random(3)
    a, b = ([draws.gauss(shift, 1) for _ in range(count)] for shift in (0.0, lead))
    better = sum(y > x for x, y in zip(a, b, strict=True)) / count
    return [written(folder / "a.jsonl", answers("a", a)), written(folder / "b.jsonl", answers("b", b))], better


def test_an_honest_judge_gives_the_share_of_better_answers(tmp_path: Path) -> None:
    files, better = sources(tmp_path, 40)
    with judging() as server:
        judge, out = f"pairwise:j@{server.base_url}", tmp_path / "out"
        compared = compare_sources(Asked(files, judge=judge, probes=5, out=out))
        asked = server.asked.total()
        assert asked == 2 * 40 + 4 * 5, "each pair in both orders; five once more, and beside themselves padded"
        compare_sources(Asked(files, judge=judge, probes=5, out=out))
        assert server.asked.total() == asked, "what was judged, and asked again, is kept"
    results = compared.results
    card = results.judge_card
    assert card is not None
    assert card.position is not None
    assert card.repeated is not None
    assert (card.pairs, card.position.value, card.repeated.n, card.repeated.value) == (40, 0.5, 5, 1.0)
    assert "Can the judge be trusted?" in (out / "report.html").read_text(encoding="utf-8")
    assert results.methods["b"].estimates["win_rate"].value == pytest.approx(better)
    assert (results.opponent, results.judge) == ("a", "j, in pairs")
    assert results.methods["b"].value("judge_score") is None


def test_scores_of_any_origin_have_a_card(tmp_path: Path) -> None:
    """Nobody is asked anything: the longer answer, b's, always wins."""
    files = [
        written(tmp_path / f"{n}.jsonl", [{"prompt": f"Q{i}", "completion": n * k, "score": k} for i in range(9)])
        for n, k in (("a", 2), ("b", 3))
    ]
    card = compare_sources(Asked(files)).results.judge_card
    assert card is not None
    assert card.longer is not None
    assert (card.longer.value, card.nulls["b"].longest, card.padded, card.position) == (1.0, 1.0, None, None)


def test_a_row_with_both_answers_is_judged_against_its_own_opponent(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Q{i}", "completion": f"x quality {i}", "opponent_completion": "y quality 2"} for i in range(6)
    ]
    with judging() as server:
        judge = f"pairwise:j@{server.base_url}"
        compared = compare_sources(Asked([written(tmp_path / "x.jsonl", rows)], judge=judge))
        rows[0]["opponent_completion"] = None
        lacking = compare_sources(Asked([written(tmp_path / "z.jsonl", rows)], judge=judge))
    [result] = compared.results.methods.values()
    assert result.estimates["win_rate"].value == pytest.approx(3.5 / 6)
    counts = next(iter(lacking.results.methods.values())).win_counts
    assert counts is not None
    assert (counts.n, counts.missing) == (5, 1)


def test_a_source_with_scores_keeps_them(tmp_path: Path) -> None:
    scored = [{"prompt": f"Q{i}", "completion": "x", "score": i} for i in range(3)]
    files = [written(tmp_path / f"{name}.jsonl", scored) for name in "ab"]
    with judging() as server, pytest.raises(TrimtabError, match="scores or preferences of its own"):
        compare_sources(Asked(files, judge=f"pairwise:j@{server.base_url}"))


def test_the_command_with_a_file_of_settings(tmp_path: Path) -> None:
    files, _ = sources(tmp_path, 12, lead=3.0)
    with judging(Biases(garbled=0.2)) as server:
        judge = tmp_path / "judge.yaml"
        judge.write_text(f"kind: pairwise\nmodel: j\nbase_url: {server.base_url}\n")
        ran = CliRunner().invoke(app, ["compare", *files, "--judge", str(judge), "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)["methods"]["b"]["win_rate"]
    assert found["n"] + found["missing"] == 12
    assert found["missing"] > 0
