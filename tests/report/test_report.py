"""The report holds what it should, escapes what it must, and loads nothing."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from evaluation.outputs_of import stored
from report.pages import Page, assert_scripts_are_ours
from trimtab import report
from trimtab.evaluation.estimate import Estimate, SeedSpread
from trimtab.evaluation.markdown import escape_markdown, fenced
from trimtab.evaluation.method_result import MethodResult
from trimtab.evaluation.results import (
    Comparison,
    Provenance,
    Results,
    Sample,
    StageCurves,
)
from trimtab.formats import NONE, byte_size, duration, number
from trimtab.report.drawing import inline
from trimtab.report.dynamics import curves
from trimtab.report.figures import all_figures, behaviours
from trimtab.report.render import render_html, write_report
from trimtab.report.table import filled
from trimtab.report.table_files import escape_csv, escape_tex, to_csv, to_markdown, to_tex
from trimtab.report.tables import all_tables, methods_table
from trimtab.report.templates import keep_together

FIGURES = (
    "win_rates",
    "judge_scores",
    "differences_win_rate",
    "differences_judge_score",
    "differences_length",
    "differences_excess_length",
    "differences_correctness",
    "over_optimisation_grpo",
    "length_penalty",
    "lengths",
    "behaviours",
)


@pytest.fixture(scope="session")
def html(results: Results) -> str:
    return render_html(results)


def test_order_of_the_page(html: str) -> None:
    ids = [a["id"] for tag, a in Page(html).tags if tag == "section" or a.get("class") == "glance"]
    assert ids == [
        "glance",
        "verdict",
        "warnings",
        "methods",
        "comparisons",
        "judge",
        "hacking",
        "curves",
        "lengths",
        "behaviours",
        "completions",
        "data",
        "provenance",
    ]


def test_model_text_is_text(html: str, hostile: str) -> None:
    page = Page(html)
    assert hostile in page.text
    assert_scripts_are_ours(html)
    assert not [t for t, _ in page.tags if t in ("img", "iframe", "object", "link")]
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert "<img" not in html


def test_what_is_linked_is_there_and_everything_can_be_saved(html: str, results: Results) -> None:
    """Ids come once; the contents lead to every section; each table has CSV and LaTeX, each figure its numbers."""
    tags = Page(html).tags
    ids = [str(a["id"]) for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [str(a["href"])[1:] for tag, a in tags if tag == "a" and str(a.get("href", "")).startswith("#")]
    assert set(links) <= set(ids)
    sections = [str(a["id"]) for tag, a in tags if tag == "section"]
    assert set(sections) <= set(links)
    saved = {str(a["download"]): unquote(str(a["href"]).partition(",")[2]) for _, a in tags if "download" in a}
    tables = all_tables(results)
    for name in tables:
        assert f"table-{name}" in ids
        if name != "methods":  # without its empty columns
            assert saved[f"{name}.csv"] == to_csv(tables[name].records)
            assert saved[f"{name}.tex"] == to_tex(tables[name])
    for name, drawing in all_figures(results).items():
        if name != "win_rates":  # at the head
            assert f"figure-{name}" in ids
            assert saved[f"figure-{name}.csv"] == to_csv(drawing.records)


def test_hostile_names_everywhere(hostile: str) -> None:
    """Names of methods, stages, opponent and judge come from a recipe: they are text as well."""
    bad = hostile.replace("\n", " ")
    w = {"ties_half": 0.5, "strict": 0.5, "ties_as_wins": 0.5, "ci95": (0.4, 0.6), "n": 9, "ties": 0, "missing": 0}
    r = Results(
        name=bad,
        opponent=bad,
        judge=bad,
        warnings=[bad],
        verdict=[bad, bad],
        methods={bad: stored(win_rate=w, behaviours={bad: 0.1})},
        opponent_result=MethodResult(),
        lengths={bad: [1, 2, 3]},
        curves={bad: StageCurves(train=[{"step": 1, "loss": 0.5}])},
        samples=[Sample(prompt=bad, chosen=bad, completions={bad: bad})],
    )
    html = render_html(r)
    page = Page(html)
    assert page.text.count(hostile.split("\n")[0]) > 8
    assert_scripts_are_ours(html)
    assert not [t for t, _ in page.tags if t == "img"]
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    for drawing in all_figures(r).values():
        ElementTree.fromstring(drawing.svg)


def test_a_name_is_not_mathematics() -> None:
    """matplotlib reads $…$ as TeX and fails on what it cannot parse."""
    r = Results(name="t", lengths={"$\\frac{$": [1, 2, 3], "$x^2$": [1]})
    assert set(all_figures(r)) == {"lengths"}


def test_title_of_an_inline_figure_is_escaped() -> None:
    found = inline("<?xml?><svg width='1'><!-- a --></svg>", '"><script>')
    assert found == '<svg role="img" aria-label="&quot;&gt;&lt;script&gt;" width=\'1\'></svg>'


def test_nothing_is_loaded(html: str) -> None:
    for tag, attributes in Page(html).tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attributes.get(name)
            held = value is not None and re.match("data:text/(csv|plain);", value)
            assert value is None or value.startswith("#") or held, (tag, name, value)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    outside = set(re.findall(r"https?://[^\s\"'<]+", html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not loads
    assert "default-src 'none'" in html


def test_files(results: Results, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/stale.csv").write_text("old")
    page = write_report(results, tmp_path)
    assert page == tmp_path / "report.html"
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert "tables/stale.csv" not in names
    for table in ("methods", "win_rates", "pairs", "comparisons", "lengths", "behaviours", "markers"):
        assert {f"tables/{table}.{kind}" for kind in ("md", "csv", "tex")} <= names
    for figure in (*FIGURES, *(f"curves_{stage}" for stage in ("sft", "sft_length", "dpo", "reward", "grpo"))):
        assert f"figures/{figure}.svg" in names
    assert not [n for n in names if n.endswith(".part")]


def test_same_results_same_bytes(results: Results) -> None:
    first, again = all_figures(results), all_figures(results)
    assert first == again
    assert render_html(results, first) == render_html(Results.model_validate_json(results.to_json()), again)
    assert not any("<dc:date>" in drawing.svg for drawing in first.values())


def test_missing_is_a_dash() -> None:
    table = methods_table(Results(name="t", methods={"dpo": MethodResult()}))
    assert table.rows == [["DPO", *[NONE] * (len(table.header) - 1)]]
    assert filled(table).rows == [["DPO"]]
    assert to_csv(table.records).splitlines()[1] == "dpo" + "," * (len(table.records[0]) - 1)
    assert number(None) == NONE
    assert number(float("nan")) == NONE
    assert number(0.0) == "0.00"


@pytest.mark.parametrize("names", [(), ("base",), ("dpo", "grpo")])
def test_any_subset_and_no_metrics(names: tuple[str, ...], tmp_path: Path) -> None:
    r = Results(name="t", methods={n: MethodResult() for n in names})
    text = write_report(r, tmp_path).read_text()
    assert "Nothing was compared" in text
    assert list((tmp_path / "figures").iterdir()) == []


def test_one_method_with_a_win_rate() -> None:
    w: dict[str, Any] = {"ties_half": None, "strict": None, "ties_as_wins": None, "n": 0, "ties": 0, "missing": 3}
    assert "–" in Page(render_html(Results(name="t", methods={"dpo": stored(win_rate=w)}))).text
    w = {
        "ties_half": 0.593,
        "strict": 0.5,
        "ties_as_wins": 0.6,
        "ci95": (0.52, 0.66),
        "n": 200,
        "ties": 2,
        "missing": 0,
    }
    r = Results(name="t", methods={"dpo": stored(win_rate=w, length_controlled_win_rate={"value": 0.5})})
    assert methods_table(r).rows[0][1:3] == ["59.3 [52.0, 66.0]", "50.0"]
    assert set(all_figures(r)) == {"win_rates"}


def test_differences_keep_their_sign() -> None:
    c = Comparison(
        a="dpo", b="sft", metric="win_rate", difference=-0.05, ci95=(-0.1, 0.0), p_value=0.0004, p_holm=0.0123
    )
    row = all_tables(Results(name="t", comparisons=[c]))["comparisons"].rows[0]
    assert row == ["Win rate, points", "DPO − SFT", "−5.0 [−10.0, +0.0]", "< 0.001", "0.012", NONE]


def test_csv_reads_back_and_runs_nothing() -> None:
    for text in ("=SUM(A1)", "+1", "-1", "@x", "\t=1", "  =1"):
        assert escape_csv(text).startswith("'")
    assert escape_csv(-0.25) == "-0.25"
    assert escape_csv(None) == ""
    assert escape_csv("plain") == "plain"
    name = '=cmd|"x",\n,'
    rows = list(
        csv.reader(io.StringIO(to_csv(methods_table(Results(name="t", methods={name: MethodResult()})).records)))
    )
    assert rows[1][0] == "'" + name
    assert len({len(row) for row in rows}) == 1


def test_markdown_and_tex_escapes() -> None:
    assert escape_markdown("a|b\n<c> *d* [e](f)") == r"a\|b &lt;c&gt; \*d\* \[e\](f)"
    assert escape_tex("50% & $x_1^2$ #{a}~\\b") == (
        r"50\% \& \$x\_1\textasciicircum{}2\$ \#\{a\}\textasciitilde{}\textbackslash{}b"
    )
    assert escape_tex("−1 – [2]") == "$-$1 -- {[}2{]}"
    nasty = "a|b & 50%_\n\\end{tabular}"
    table = methods_table(Results(name="t", methods={nasty: MethodResult()}))
    columns = len(table.header)
    for line in to_markdown(table).splitlines()[:3]:
        assert len(re.findall(r"(?<!\\)\|", line)) == columns + 1
    tex = to_tex(table)
    assert tex.count(r"\end{tabular}") == 1
    row = next(line for line in tex.splitlines() if line.startswith("a"))
    assert len(re.findall(r"(?<!\\)&", row)) == columns - 1


def test_numbers_for_people() -> None:
    assert [duration(s) for s in (None, 12.34, 200, 3725)] == [NONE, "12.3 s", "3 min 20 s", "1 h 02 min"]
    assert [byte_size(b) for b in (None, 5 * 2**20, 3 * 2**29)] == [NONE, "5 MiB", "1.50 GiB"]
    assert keep_together("59.3 % p = 0.1 n = 20") == "59.3\u00a0% p\u00a0=\u00a00.1 n\u00a0=\u00a020"


def test_pairs_at_a_glance() -> None:
    """A star only where the interval excludes 0 and p survives Holm; "–" where a metric knows no such pair."""
    known = {"a": "dpo", "b": "sft", "p_value": 0.01}
    rows = [
        Comparison(**known, metric="win_rate", difference=0.05, ci95=(0.01, 0.1), p_holm=0.02),
        Comparison(**known, metric="judge_score", difference=0.123, ci95=(0.1, 0.2), p_holm=0.06),
        Comparison(**known | {"b": "base"}, metric="win_rate", difference=-0.05, ci95=(-0.1, 0.01), p_holm=0.02),
    ]
    table = all_tables(Results(name="t", comparisons=rows))["pairs"]
    assert table.header == ["Pair", "Win rate, points", "Judge score"]
    assert table.rows == [
        ["DPO − SFT", "+5.0 [1.0, 10.0] *", "+0.12 [0.10, 0.20]"],
        ["DPO − Base", "−5.0 [−10.0, 1.0]", NONE],
    ]


def test_lengths_table() -> None:
    length = {"mean": 30.24, "median": 28, "chosen_mean": 20}
    m = stored(
        length=length,
        excess_length={"mean": 12.5, "ci95": (10, 15), "n": 5},
        correctness={"mean": -0.25, "ci95": (-0.5, 0), "n": 5},
        terminated=0.98,
    )
    r = Results(name="t", methods={"sft": m, "dpo": stored(length=length)})
    table = all_tables(r)["lengths"]
    assert table.rows == [["SFT", "30.2", "28.0", "12.5 [10.0, 15.0]", "98.0", "−0.250 [−0.500, 0.000]"]]
    assert "excess_tokens,excess_tokens_ci95_low" in to_csv(table.records)


def test_seeds_are_shown(seeds_results: Results) -> None:
    """Each seed's value and both intervals; the page has the section, ticks and the other seeds' curves."""
    table = all_tables(seeds_results)["seeds"]
    assert [row[0] for row in table.rows[:4]] == ["SFT", "SFT + length penalty", "DPO", "GRPO"]
    s = seeds_results.methods["dpo"].estimates["win_rate"].seeds
    assert s is not None
    low, high = s.between_ci95 or (0, 0)
    assert table.rows[2][3] == ", ".join(f"{100 * v:.1f}" for v in s.values.values())
    assert table.rows[2][4] == f"{100 * low:.1f} to {100 * high:.1f}"
    assert {row[1] for row in table.rows} == {"Win rate, %", "Win rate, points"}
    everything = all_tables(seeds_results)["seeds_all"]
    assert len(everything.rows) > len(table.rows)
    assert "seed_0" in to_csv(everything.records).splitlines()[0]
    page = Page(render_html(seeds_results))
    assert "seeds" in [a["id"] for tag, a in page.tags if tag == "section"]
    assert "Small ticks: each training seed" in page.text
    assert "Means over training seeds" in page.text
    assert "One training seed" not in page.text
    for drawing in all_figures(seeds_results).values():
        ElementTree.fromstring(drawing.svg)


def test_without_win_rates_the_seeds_table_has_judge_scores() -> None:
    spread = SeedSpread(values={0: 1.0, 1: 3.0}, between_ci95=(-10.7, 14.7), within_ci95=(1.5, 2.5))
    m = MethodResult(estimates={name: Estimate(value=2.0, seeds=spread) for name in ("judge_score", "length")})
    r = Results(name="t", methods={"dpo": m}, provenance=Provenance(seeds=[0, 1]))
    table = all_tables(r)["seeds"]
    assert table.rows == [["DPO", "Judge score", "2.000", "1.000, 3.000", "−10.700 to 14.700", "1.500 to 2.500"]]


def test_reasons_and_parts_of_scores_stay_out_of_the_page(html: str, results: Results, hostile: str) -> None:
    """Every breakdown holds hostile notes: only the sample that a model wrote is shown, and escaped."""
    assert Page(html).text.count(hostile) == 1
    assert hostile not in html


# ---- figures as people see them


def texts(svg: str) -> list[str]:
    return [unescape(one) for one in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_figures_text_is_text_and_no_markup() -> None:
    """Selectable, in fonts that are everywhere, and a hostile name is no element of the page."""
    name = "</text><script>x</script>"
    made = MethodResult(behaviours={"hedging": 0.2, "loops": 0.0})
    drawing = behaviours(Results(name="n", methods={name: made}))
    assert drawing is not None
    svg = drawing.svg
    assert "<script" not in svg
    assert "</text><script>x</script>" in texts(svg)
    assert "hedging" in texts(svg)
    assert "sans-serif" in svg
    assert_scripts_are_ours(render_html(Results(name="n", methods={name: made})))


@pytest.mark.parametrize("share", [0.0, 0.003, 0.4, 1.0])
def test_shares_start_at_nothing_and_are_never_below(share: float) -> None:
    made = MethodResult(behaviours={"hedging": share, "loops": 0.0})
    drawing = behaviours(Results(name="n", methods={"sft": made}))
    assert drawing is not None
    ticks = [
        float(one.replace("\u2212", "-")) for one in texts(drawing.svg) if re.fullmatch(r"[\u2212-]?[\d.]+", one)
    ]
    assert min(ticks) == 0
    assert 100 * share <= 1.05 * max([*ticks, 1.0]) + 20


def test_numbers_on_axes_stand_for_themselves() -> None:
    """No "+1.0296e1" in a corner that must be added to what the ticks say."""
    rows: list[Any] = [
        {"step": i, "loss": 10.296 + 1e-6 * i, "grad_norm": 3e6 + i, "entropy": 2e-5 * i} for i in range(1, 9)
    ]
    drawing = curves("sft", {0: StageCurves(train=rows)})
    assert drawing is not None
    svg = drawing.svg
    assert not [one for one in texts(svg) if re.search(r"e[+\u2212-]?\d|×", one)]
    assert any(one.startswith("10.29") for one in texts(svg))
    single = curves("sft", {0: StageCurves(train=rows[:1])})
    assert not [one for one in texts(single.svg if single else "") if re.fullmatch(r"0\.[89]\d*|1\.[012]\d*", one)]


def test_figures_shrink_with_the_page() -> None:
    css = (Path(report.__file__).parent / "report.css").read_text()
    rule = re.search(r"figure svg \{([^}]*)\}", css)
    assert rule is not None
    assert "min-width" not in rule[1]
    assert "width: 100%" in rule[1]


def test_no_line_closes_a_fence() -> None:
    for text in ("a", "```", "a: 'x\n\n  ````\n\n  <script>'"):
        first, *inside, last = fenced(text, "yaml").splitlines()
        assert first == last + "yaml"
        assert all(last not in line for line in inside)
