"""The browser of completions: what stands in the page as data, and what a real browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evaluation.outputs_of import make, study
from report.conftest import HOSTILE
from report.pages import Page, assert_scripts_are_ours
from trimtab.cli import app
from trimtab.evaluation.outputs import Generation, MethodOutputs, write_rows
from trimtab.report.answers import Cell, Prompt, read_answers
from trimtab.report.browser import as_json, within
from trimtab.report.render import write_report
from trimtab.study.read_results import read_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TEXTS = {
    "sft": [HOSTILE, "the quick brown fox", "same words here"],
    "dpo": ["plain", "the slow brown hare", "same words here"],
    "other": ["no", "I hope this helps", ""],
}
SCORES = {"sft": [1.0, 2.0, 3.0], "dpo": [2.0, 2.0, None], "other": [0.0, 3.0, 3.0]}


def outputs(name: str) -> MethodOutputs:
    made = make(name, SCORES[name])
    rows = [
        Generation(id=f"p{i}", prompt=f"ask {i}", completion=text, tokens=len(text.split()), terminated=i != 1)
        for i, text in enumerate(TEXTS[name])
    ]
    return MethodOutputs(name, rows, made.scores)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder, in which DPO lacks a score."""
    out = tmp_path_factory.mktemp("study")
    results = study([outputs("sft"), outputs("dpo")], outputs("other"), n_resamples=200)
    results.write(out / "results.json")
    for name in TEXTS:
        place = out / "seed-0" / "evaluation" / ("opponent" if name == "other" else name)
        place.mkdir(parents=True)
        made = outputs(name)
        write_rows(place / "generations.jsonl", [g for g in made.generations if isinstance(g, Generation)])
        write_rows(place / "scores.jsonl", made.scores)
    write_report(results, out)
    return out


def held(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="answers">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    read: dict[str, Any] = json.loads(found[1])
    return read


def test_every_answer_is_in_the_page_as_data(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    data = held(page)
    assert data["names"] == ["sft", "dpo", "other"]
    assert data["methods"] == ["SFT", "DPO", "other (opponent)"]
    assert data["opponent"] == 2
    assert data["prompts"] == [["p0", "ask 0"], ["p1", "ask 1"], ["p2", "ask 2"]]
    sft, dpo, other = data["answers"]
    assert [answer[0] for answer in sft] == TEXTS["sft"]
    assert [answer[3] for answer in dpo] == [2, 2, None]
    assert [answer[4] for answer in sft] == [1, 0, 0.5], "won, lost and tied against the opponent"
    assert [answer[4] for answer in dpo] == [1, 0, None]
    assert [answer[1:3] for answer in other] == [[1, True], [4, False], [0, True]]
    shown = [[data["behaviours"][i] for i in answer[5]] for answer in other]
    assert shown == [[], ["Meta commentary"], ["Empty"]]


def test_a_completion_of_markup_stays_text(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert_scripts_are_ours(page)
    assert "<img" not in page
    assert not [tag for tag, _ in Page(page).tags if tag in ("img", "iframe", "object", "link")]


@pytest.mark.parametrize("text", ["</script><script>x</script>", "<!-- <script>", "\u2028 & \ud800", "é 😀"])
def test_json_that_may_stand_in_an_element(text: str) -> None:
    written = as_json({"t": text})
    assert not set("<>&\u2028") & set(written)
    written.encode("utf-8")
    assert json.loads(written)["t"] == text.replace("\ud800", "\ufffd")


def test_a_large_study_is_cut_evenly_and_says_so() -> None:
    prompts = [Prompt(str(i), "1234", {"sft": Cell("x" * (6 if i % 2 else 46))}) for i in range(100)]
    assert within(prompts, 3000) is prompts
    kept = within(prompts, 1000)
    assert sum(len(p.text) + len(p.cells["sft"].completion or "") for p in kept) <= 1000
    assert 25 <= len(kept) < 100
    places = [int(p.key) for p in kept]
    assert (places[0], places[-1]) == (0, 99)
    assert max(b - a for a, b in pairwise(places)) <= 5
    assert len(within(prompts, 1)) == 1


def test_the_page_says_what_it_leaves_out(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("trimtab.report.browser.CHARACTERS", 120)
    shutil.copytree(folder, tmp_path / "s")
    text = Page(write_report(read_results(tmp_path / "s"), tmp_path / "s").read_text()).text
    assert "1 of 3 prompts are in this page" in text
    assert "all are in seed-S/evaluation/METHOD/generations.jsonl" in text


def test_damaged_files_leave_a_report_that_says_so(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "s")
    (tmp_path / "s/seed-0/evaluation/dpo/generations.jsonl").write_text("{\n")
    text = Page(write_report(read_results(tmp_path / "s"), tmp_path / "s").read_text()).text
    assert "could not be read" in text
    assert "dpo/generations.jsonl:1" in text


def compare(tmp_path: Path, **rows: list[dict[str, Any]]) -> str:
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["compare", *(str(tmp_path / f"{name}.jsonl") for name in rows), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_compare_has_the_same_page_and_can_be_drawn_anew(tmp_path: Path) -> None:
    rows = {
        name: [{"prompt": f"ask {i}", "completion": f"{name} {i}", "score": s + i % 2} for i in range(8)]
        for name, s in (("old", 1.0), ("new", 2.0))
    }
    page = compare(tmp_path, **rows)
    data = held(page)
    assert set(data["names"]) == {"old", "new"}
    new = data["answers"][data["names"].index("new")]
    assert [answer[0] for answer in new] == [f"new {i}" for i in range(8)]
    assert {answer[4] for answer in new} == {1}
    (tmp_path / "out/report.html").unlink()
    assert CliRunner().invoke(app, ["report", str(tmp_path / "out")]).exit_code == 0
    assert held((tmp_path / "out/report.html").read_text(encoding="utf-8")) == data


def test_scores_alone_have_no_browser(tmp_path: Path) -> None:
    rows = {name: [{"id": i, "score": s + i % 3} for i in range(9)] for name, s in (("a", 1.0), ("b", 1.5))}
    page = compare(tmp_path, **rows)
    assert 'id="answers"' not in page
    assert 'id="completions"' not in page
    assert 'id="glance"' in page
    assert read_answers(tmp_path / "out", "a") is None


# ---- in a real browser


def shown(page: Path, fragment: str) -> str:
    """The page's elements after its script ran, as Chromium has them."""
    assert CHROMIUM is not None
    asked = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--enable-logging=stderr"]
    command = [
        CHROMIUM,
        *asked,
        f"--user-data-dir={page.parent / 'profile'}",
        "--dump-dom",
        f"file://{page}#{fragment}",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in ran.stderr, ran.stderr
    return ran.stdout


DRIVER = """
<script>
(async () => {
  const said = [];
  for (const asked of ASKED) {
    for (const one of document.querySelectorAll("#browser [data-key]")) {
      if (one.type === "checkbox") one.checked = true;
      else one.value = asked[one.dataset.key] ?? {first: "sft", second: "dpo"}[one.dataset.key] ?? "";
    }
    document.querySelector(".filters").dispatchEvent(new Event("input"));
    await new Promise((done) => setTimeout(done, 200));
    said.push([...document.querySelectorAll(".list article")].map((one) => Number(one.id.slice(7)) - 1));
  }
  const heads = [...document.querySelectorAll("#table-methods th button")];
  const sort = heads.find((one) => one.textContent === "Tokens, mean");
  const body = document.querySelector("#table-methods tbody");
  const rows = () => [...body.rows].map((row) => row.cells[0].textContent);
  sort.click();
  const falling = rows();
  sort.click();
  const folds = () => document.querySelectorAll("details:not([open])").length;
  const closed = folds();
  dispatchEvent(new Event("beforeprint"));
  const printed = folds();
  dispatchEvent(new Event("afterprint"));
  const answer = {said, falling, rising: rows(), printed, same: folds() === closed && closed > 0};
  const pre = Object.assign(document.createElement("pre"), {id: "said", textContent: JSON.stringify(answer)});
  document.body.append(pre);
})();
</script>
"""
FILTERS: list[tuple[dict[str, str], list[int]]] = [
    ({}, [0, 1, 2]),
    ({"search": "BROWN"}, [1]),
    ({"search": "ASK same"}, [2]),
    ({"search": "brown quick"}, [1]),
    ({"search": "nowhere"}, []),
    ({"outcome": "first"}, []),
    ({"outcome": "second"}, [0]),
    ({"outcome": "equal"}, [1]),
    ({"outcome": "unknown"}, [2]),
    ({"outcome": "equal", "second": "other"}, [2]),
    ({"outcome": "second", "first": "other", "second": "sft"}, [0]),
    ({"length": "longer"}, [0]),
    ({"length": "shorter"}, []),
    ({"length": "cut"}, [1]),
    ({"least": "4"}, [0, 1]),
    ({"least": "4", "most": "4"}, [1]),
    ({"behaviour": "2", "first": "other"}, [1]),
    ({"order": "shortest"}, [2, 1, 0]),
    ({"order": "longest"}, [0, 1, 2]),
    ({"order": "gap", "second": "other"}, [0, 2, 1]),
    ({"order": "behind", "second": "other"}, [1, 2, 0]),
]
"""Of SFT beside DPO, where nothing else is said: the prompts that are shown, in their order."""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_every_filter_and_order_sorting_and_print(folder: Path, tmp_path: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    driver = DRIVER.replace("ASKED", json.dumps([asked for asked, _ in FILTERS]))
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html).replace(
        "</body>", f"{driver}</body>"
    )
    (tmp_path / "driven.html").write_text(html, encoding="utf-8")
    dom = shown(tmp_path / "driven.html", "completions")
    found = re.search(r'<pre id="said">(.*?)</pre>', dom)
    assert found is not None
    said = json.loads(unescape(found[1]))
    for (asked, expected), kept in zip(FILTERS, said["said"], strict=True):
        assert kept == expected, asked
    assert said["falling"] == ["SFT", "DPO", "other (opponent)"]
    assert said["rising"] == ["other (opponent)", "DPO", "SFT"]
    assert said["printed"] == 0
    assert said["same"]


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_finds_filters_and_marks(folder: Path) -> None:
    dom = shown(folder / "report.html", "completions?first=dpo&second=sft")
    assert '<div id="browser">' in dom, "it is no longer hidden"
    assert "3 of 3 prompts; DPO is better on 1, equal on 1, worse on 0" in dom
    first, second, third = re.findall(r'<article class="sample" id="prompt-\d">.*?</article>', dom, re.DOTALL)
    assert HOSTILE in text_of(first)
    assert "<img" not in dom
    assert re.findall(r'<mark class="one">(.*?)</mark>', second) == ["slow", "hare"]
    assert re.findall(r'<mark class="other">(.*?)</mark>', second) == ["quick", "fox"]
    assert "<mark" not in third
    found = shown(folder / "report.html", "completions?first=sft&second=other&outcome=second&search=brown+hope")
    assert "1 of 3 prompts; SFT is better on 0, equal on 0, worse on 1" in found
    none = shown(folder / "report.html", "completions?first=dpo&second=sft&behaviour=3")
    assert "0 of 3 prompts" in none
    linked = shown(folder / "report.html", "prompt-2")
    assert re.search(r'<details class="section" open=""><summary><h2>Completions', linked)
