"""The section of completions: a browser of all of them, where there is JavaScript, and a few samples for everyone.

The answers travel in the page as JSON in a script element that is not run. `<`, `>` and `&` are written as escapes
of JSON there, so that no completion can end the element; the page shows texts through textContent alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.behaviours import BEHAVIOURS
from trimtab.evaluation.results import Results
from trimtab.json_types import JsonObject, JsonValue
from trimtab.report.answers import Answers, Cell, Prompt
from trimtab.report.glance import start_of
from trimtab.report.parts import Folded, Html, Part, Text
from trimtab.report.samples import samples
from trimtab.report.tables import behaviour_label
from trimtab.report.templates import render
from trimtab.report.view import View

CHARACTERS = 4_000_000
"""Of prompts and completions in the page: it stays a file that a browser opens at once and a letter can carry."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def completions(view: View) -> list[Part]:
    """The browser, and samples."""
    shown = samples(view)
    if view.answers is None or not view.answers.has_texts:
        return [*([Text(view.unread, soft=True)] if view.unread else []), *shown]
    prompts = within(view.answers.prompts, CHARACTERS)
    browser = render(
        "browser.html.j2",
        answers=Markup(as_json(payload(view.answers, prompts, view.results))),
        note=_note(view.answers, len(prompts)),
        where=view.answers.where,
    )
    return [Html(browser), *([Folded("Samples", shown, "samples")] if shown else [])]


def within(prompts: Sequence[Prompt], characters: int) -> Sequence[Prompt]:
    """As many prompts as hold so many characters with their answers, spread evenly over all; one at least."""
    sizes = [_size(prompt) for prompt in prompts]
    if sum(sizes) <= characters:
        return prompts
    count = max(1, int(len(prompts) * characters / sum(sizes)))
    while True:
        picked = np.unique(np.linspace(0, len(prompts) - 1, count).astype(int))
        if count == 1 or sum(sizes[i] for i in picked) <= characters:
            return [prompts[i] for i in picked]
        count -= max(1, count // 50)


def _size(prompt: Prompt) -> int:
    return len(prompt.text) + sum(len(cell.completion or "") for cell in prompt.cells.values())


def _note(answers: Answers, shown: int) -> str:
    every = len(answers.prompts)
    text = f"Of training seed {answers.seed}. " if answers.seed is not None else ""
    if shown < every:
        text += f"{shown:,} of {every:,} prompts are in this page, spread evenly; all are in {answers.where}."
    return text


def payload(answers: Answers, prompts: Sequence[Prompt], results: Results) -> JsonObject:
    """What the browser reads. answers: by method, by prompt: text, tokens, whether it ended, score, outcome, and
    the numbers of the behaviours that it shows; null where a method has no answer."""
    names = ordered_methods(dict.fromkeys(answers.methods))
    if answers.opponent in names:
        names = [*(name for name in names if name != answers.opponent), str(answers.opponent)]
    first, second = _two(names, results)
    flags = _flags()
    return {
        "methods": [label(name) + (" (opponent)" if name == answers.opponent else "") for name in names],
        "names": names,
        "opponent": names.index(answers.opponent) if answers.opponent in names else None,
        "first": names.index(first),
        "second": names.index(second),
        "behaviours": [behaviour_label(name) for name in flags],
        "prompts": [[prompt.key, prompt.text] for prompt in prompts],
        "answers": [[_answer(prompt.text, prompt.cells.get(name), flags) for prompt in prompts] for name in names],
    }


def _two(names: Sequence[str], results: Results) -> tuple[str, str]:
    """The best method, and what it is set beside."""
    rates = {name: results.methods[name].value("win_rate") for name in names if name in results.methods}
    known = {name: rate for name, rate in rates.items() if rate is not None}
    first = max(known, key=lambda name: known[name]) if known else next(iter(rates), names[0])
    start = start_of(results, first) if first in results.methods else None
    others = [name for name in (start, results.opponent, *names) if name in names and name != first]
    return first, str(others[0]) if others else first


def _flags() -> list[str]:
    """The behaviours that a completion shows or does not; a share of it is none."""
    return [name for name, row in BEHAVIOURS.items() if not isinstance(row.rule("a b c d", "a b c d"), float)]


def _answer(prompt: str, cell: Cell | None, flags: Sequence[str]) -> JsonValue:
    if cell is None:
        return None
    text = cell.completion
    shows = [i for i, name in enumerate(flags) if text is not None and BEHAVIOURS[name].rule(prompt, text)]
    score = None if cell.score is None else float(f"{cell.score:.6g}")
    return [text, cell.tokens, cell.terminated, score, cell.outcome, shows]


def as_json(value: Mapping[str, JsonValue]) -> str:
    """JSON that may stand in a script element. Half a surrogate pair, which no file can hold, is U+FFFD."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(_ESCAPES.get(ch, ch) for ch in text) if any(ch in text for ch in _ESCAPES) else text
