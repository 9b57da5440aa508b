"""The section of completions: a few prompts with every method's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.results import Sample
from trimtab.formats import number
from trimtab.report.parts import Html, Part, Text
from trimtab.report.templates import render
from trimtab.report.view import View


@dataclass(frozen=True)
class _Answer:
    who: str
    text: str
    score: str


@dataclass(frozen=True)
class _Shown:
    prompt: str
    answers: Sequence[_Answer]


def samples(view: View) -> list[Part]:
    """Prompts spread evenly over those of the evaluation."""
    opponent = view.results.opponent_method or view.results.opponent
    shown = [_shown(sample, opponent) for sample in view.results.samples]
    if not shown:
        return []
    note = "Spread evenly over the evaluation prompts, not picked. Score: the judge's."
    return [Text(note, soft=True), Html(render("samples.html.j2", samples=shown))]


def _shown(sample: Sample, opponent: str | None) -> _Shown:
    names = ordered_methods(sample.completions)
    if opponent in names:
        names = [n for n in names if n != opponent] + [str(opponent)]
    answers = [
        _Answer(
            label(n) + (" (opponent)" if n == opponent else ""),
            sample.completions[n],
            number(sample.scores.get(n), 2),
        )
        for n in names
    ]
    if sample.chosen is not None:
        answers.append(_Answer("Chosen text of the data", sample.chosen, ""))
    return _Shown(sample.prompt, answers)
