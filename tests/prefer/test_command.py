"""`trimtab prefer` as people start it, end it, and see it killed."""

from __future__ import annotations

import importlib.util
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from prefer.made import Process, two_sources
from trimtab.cli import app
from trimtab.data.vote_file import read_votes
from trimtab.prefer.run import Asked, speakers_of
from trimtab.prefer.serve import Place


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    return two_sources(tmp_path, 12)


def post(address: str, path: str, **body: Any) -> Any:
    answer = httpx.post(httpx.URL(address).join(path), json=body, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_votes_outlive_a_kill_and_ctrl_c_ends_it_cleanly(sources: list[str], tmp_path: Path) -> None:
    votes = tmp_path / "kept" / "votes.sqlite"
    first = Process(*sources, "--votes", str(votes), "--port", "0")
    assert f"12 items, 2 people each. Votes: {votes}" in first.lines
    shown = post(first.address, "/api/items", person="ada", count=2)["items"]
    cast = [
        {
            "vote_id": f"vote-{i:05}", "item": one["id"], "person": "ada", "repeated": False, "verdict": "left",
            "milliseconds": 900,
        }
        for i, one in enumerate(shown)
    ]  # fmt: skip
    post(first.address, "/api/votes", **cast[0])
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL

    second = Process(*sources, "--votes", str(votes), "--port", str(first.port))
    assert second.address == first.address, "the page that is open goes on"
    assert post(second.address, "/api/votes", **cast[0])["voted"] == 1, "sent again"
    after = post(second.address, "/api/votes", **cast[1])
    assert (after["voted"], after["left"]) == (2, 10)
    code, printed = second.end(signal.SIGINT)
    assert (code, printed.strip()) == (0, f"In {votes}: 2 votes of 1 person")
    assert [vote.vote_id for vote in read_votes(votes)] == ["vote-00000", "vote-00001"]


def test_open_shows_the_owners_page_in_a_browser(
    sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser that loads the address and keeps what it saw, as whoever is at this machine would."""
    seen, browser = tmp_path / "seen", tmp_path / "browser"
    load = "import sys, httpx, pathlib; text = httpx.get(sys.argv[1], trust_env=False).text; "
    load += f"kept = pathlib.Path({str(seen)!r}); kept.with_suffix('.new').write_text(text); "
    load += "kept.with_suffix('.new').rename(kept)"
    browser.write_text(f"#!{sys.executable}\n{load}\n")
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    page = Process(*sources, "--votes", str(tmp_path / "votes.sqlite"), "--port", "0", "--open")
    for _ in range(600):
        if seen.exists():
            break
        time.sleep(0.1)
    assert 'href="/numbers"' in seen.read_text()
    assert page.end(signal.SIGINT)[0] == 0


def test_a_token_is_printed_once_and_in_no_log(sources: list[str], tmp_path: Path) -> None:
    votes = tmp_path / "votes.sqlite"
    running = Process(*sources, "--votes", str(votes), "--port", "0", "--host", "0.0.0.0")
    token = httpx.URL(running.address).params["token"]
    local = f"http://127.0.0.1:{running.port}"
    assert httpx.get(local, trust_env=False).status_code == 401
    assert httpx.get(f"{local}/?token={token}", trust_env=False).status_code == 200
    assert httpx.get(f"{local}/nowhere?token={token}x", trust_env=False).status_code == 401
    code, printed = running.end(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert token not in printed
    assert sum(token in line for line in running.lines) == 1


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["prefer", *words])
    assert result.exit_code == 1, result.output
    return str(result.exception)


def test_what_is_wrong_is_told_at_once(sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run() == "nothing to judge. Name a study's folder, or files of completions: trimtab prefer RUN."
    assert "no such file or folder" in run(str(tmp_path / "nowhere"))
    assert "name two models or more" in run(*sources, "--model", "sandbox:base")
    assert "the sandbox has" in run(*sources, "--model", "sandbox:base", "--model", "sandbox:nothing")
    assert "no such method" in run(
        *sources, "--methods", "sft,ppo", "--port", "0", "--votes", str(tmp_path / "v.db")
    )
    taken = Place("127.0.0.1", 0)
    assert f"--port {taken.port} is taken" in run(*sources, "--port", str(taken.port))
    taken.socket.close()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "starlette" else found(name))
    assert run(*sources) == "prefer: it needs starlette, which is not installed: pip install 'trimtab[prefer]'."


def test_the_models_of_a_study_may_answer_prompts_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: sandbox:base\n")
    stages = tmp_path / "seed-0" / "stages"
    for name in ("sft", "dpo", "reward", "online_dpo-1", "online_dpo-2", "online_dpo-1-pairs", "grpo"):
        (stages / name).mkdir(parents=True)
        if name != "grpo":  # which has begun, and is not finished
            (stages / name / "done.json").write_text("{}")
    found = speakers_of(Asked([str(tmp_path)]))
    assert sorted(found) == ["base", "dpo", "online_dpo", "sft"]
    assert found["online_dpo"].args[1] == str(stages / "online_dpo-2" / "best")  # type: ignore[attr-defined]
    assert sorted(speakers_of(Asked([str(tmp_path)], methods=["sft", "dpo"]))) == ["dpo", "sft"]
    named = speakers_of(Asked([str(tmp_path)], models=[str(stages / "sft" / "best"), "start=sandbox:base"]))
    assert sorted(named) == ["sft", "start"]
    assert speakers_of(Asked([str(stages)])) == {}
