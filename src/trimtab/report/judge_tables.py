"""The card of the judge, as tables: what its judgements say of it, and judges that see nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trimtab.catalogue import label, ordered_methods
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.judge_card import JudgeCard
from trimtab.evaluation.results import Results
from trimtab.formats import number, with_interval
from trimtab.report.table import Table, Value, with_ends


class _Row(NamedTuple):
    name: str
    shown: str
    share: Estimate
    sound: str


def _rows(card: JudgeCard) -> Iterator[_Row]:
    measured = [
        ("position", "Verdicts for the answer shown first", card.position, "50"),
        ("flips", "Pairs on which the two orders name different winners", card.flips, "0"),
        ("longer", "Pairs that the longer answer wins", card.longer, "50, or merit"),
        ("padded", "Answers that win of themselves once padded", card.padded, "50 or less"),
        ("repeated", "Same winner when asked once more", card.repeated, "100"),
    ]
    for name, shown, share, sound in measured:
        if share is not None:
            yield _Row(name, shown, share, sound)
    for pair in card.members:
        yield _Row(f"{pair.a} and {pair.b}", f"Jury: {pair.a} and {pair.b} name the same winner", pair.same, "100")


def judge_table(results: Results) -> Table:
    """A row for each thing that is known of the judge."""
    card = results.judge_card
    rows = list(_rows(card)) if card is not None else []
    cells = [[r.shown, with_interval(r.share.value, r.share.ci95, 1, 100), r.sound, str(r.share.n)] for r in rows]
    records: list[dict[str, Value]] = [
        {"measured": r.name, **with_ends("share", r.share.value, r.share.ci95), "n": r.share.n} for r in rows
    ]
    header = ["Of the judge", "% [95 %]", "Sound", "n"]
    return Table("judge", "The judge", header, cells, records, _notes(card) if card is not None else [])


def _notes(card: JudgeCard) -> list[str]:
    judged = f"{card.pairs} pairs judged"
    notes = [f"{judged}, {card.missing} without a judgement." if card.missing else f"{judged}."]
    if card.position is not None:
        notes.append(
            "Every pair is judged in both orders, and what the place decides becomes a tie. It moves no win rate "
            "to a side, but draws all of them towards a half."
        )
    if card.smallest_gain is not None:
        gain = number(card.smallest_gain, 1, 100)
        notes.append(f"So many prompts show a lead of {gain} points of win rate four times in five.")
    if card.relatives:
        told = (
            "the table below sets it beside others who judged the same answers."
            if card.self_preference
            else "and nothing here tells that from merit: a second judge or people's labels would."
        )
        names = ", ".join(card.relatives)
        notes.append(f"Of the judge's family, by name: {names}. A judge may prefer its family's ways; {told}")
    return notes


def self_preference_table(results: Results) -> Table:
    """What the judge gives answers of its own family, beside what others give them."""
    found = results.judge_card.self_preference if results.judge_card is not None else []
    rows = [
        [
            label(one.own), one.by, number(one.judge, 1, 100), number(one.other, 1, 100),
            with_interval(one.excess.value, one.excess.ci95, 1, 100, sign=True), str(one.excess.n),
        ]
        for one in found
    ]  # fmt: skip
    records: list[dict[str, Value]] = [
        {
            "own": one.own,
            "by": one.by,
            "judge": one.judge,
            "other": one.other,
            **with_ends("excess", one.excess.value, one.excess.ci95),
            "n": one.excess.n,
        }
        for one in found
    ]
    note = (
        "Win rates of answers of the judge's own family, %, over the prompts that both judged, and their paired "
        "difference in points. Above 0 the judge gives them more than the other does; a judge that is only noisier "
        "draws rates to a half, too."
    )
    header = ["Of its family", "Beside", "Judge", "Other", "Difference [95 %]", "Prompts"]
    return Table("self_preference", "Does it prefer its own family?", header, rows, records, [note])


def null_judges_table(results: Results) -> Table:
    """Win rates by the judge, and by what would need no judge."""
    nulls = results.judge_card.nulls if results.judge_card is not None else {}
    rates = {name: nulls[name] for name in ordered_methods(nulls) if nulls[name].longest is not None}
    rows = [
        [label(name), *(number(v, 1, 100) for v in (rate.judge, rate.longest, rate.shortest, rate.first))]
        for name, rate in rates.items()
    ]
    records: list[dict[str, Value]] = [{"method": name, **rate.model_dump()} for name, rate in rates.items()]
    note = (
        "Win rates, %, of the same prompts. Longest, shortest: the longer or shorter answer wins, whatever it "
        "says. First: the one shown first wins, in both orders."
    )
    header = ["Method", "Judge", "Longest", "Shortest", "First"]
    return Table("null_judges", "Judges that see nothing, beside it", header, rows, records, [note])
