"""Tables of what people's labels say: corrected numbers, agreement, agreement by length."""

from __future__ import annotations

from trimtab.catalogue import label
from trimtab.evaluation.estimate import Estimate
from trimtab.evaluation.people_result import CorrectedNumber, People, Voting
from trimtab.evaluation.results import Results
from trimtab.formats import NONE, counted, number, with_interval
from trimtab.report.table import Table, Value, with_ends

WHO = {"judge": "Judge and people", "people": "People with each other"}


def tables_of(people: People) -> list[Table]:
    """Everything that people's labels say, without a study's results."""
    tables = [_people_table(people), _agreement_table(people), _length_table(people), _voters_table(people)]
    return [table for table in tables if table.rows]


def people_table(results: Results) -> Table:
    """Win rates and differences by people, beside the judge's and the labels' alone."""
    return _people_table(results.people)


def _people_table(people: People | None) -> Table:
    numbers = people.numbers if people else []
    header = ["Win rate, or difference", "Corrected [95 %]", "Judge alone", "Labels alone", "λ"]
    header += ["Labelled", "Of", "More to halve", "More for ± 5"]
    note = (
        "Corrected: the judge's number of all answers, and what labels of some say that it is off by "
        "(prediction-powered inference, PPI++). λ: how far the judge is relied on. More to halve: further labels "
        "that would make the corrected interval half as wide, or ± 5 points; none where labels of all answers "
        "would not."
    )
    notes = [note] if people else []
    if people:
        notes.append(
            f"{counted(people.votes, 'vote')} of {counted(people.persons, 'person')} on "
            f"{counted(people.prompts, 'prompt')}, from {people.source}."
        )
        if people.ties:
            notes.append(
                f"{people.ties} of the labelled are ties that nobody was asked about: both answers are the same "
                "text. They are as many as chance would have drawn beside the others."
            )
    records = [_record(n) for n in numbers]
    return Table("people", "Win rates by people", header, [_row(n) for n in numbers], records, notes)


def _row(n: CorrectedNumber) -> list[str]:
    is_difference = n.kind == "difference"
    name = f"{label(n.a)} {'−' if is_difference else 'against'} {label(n.b)}"
    cells = [_cell(e, 1, 100, is_difference) for e in (n.corrected, n.judge, n.labels)]
    more = [NONE if count is None else f"{count:,}" for count in (n.more_to_halve, n.more_for_five)]
    return [name, *cells, number(n.weight, 2), str(n.labelled), str(n.rows) if n.rows else NONE, *more]


def _record(n: CorrectedNumber) -> dict[str, Value]:
    record: dict[str, Value] = {"kind": n.kind, "a": n.a, "b": n.b}
    for name, estimate in (("corrected", n.corrected), ("judge", n.judge), ("labels", n.labels)):
        record |= _ends(name, estimate)
    return record | {
        "weight": n.weight, "labelled": n.labelled, "rows": n.rows, "more_to_halve": n.more_to_halve,
        "more_for_five": n.more_for_five,
    }  # fmt: skip


def agreement_table(results: Results) -> Table:
    """Of the judge with people, and of people with each other."""
    return _agreement_table(results.people)


def _agreement_table(people: People | None) -> Table:
    found = people.agreement if people else []
    rows, records = [], []
    for one in found:
        rows.append([
            WHO[one.who], str(one.raw.n), _cell(one.raw, 1, 100), _cell(one.kappa, 2, 1), _cell(one.alpha, 2, 1),
        ])  # fmt: skip
        record: dict[str, Value] = {"who": one.who, "n": one.raw.n}
        for name, estimate in (("raw", one.raw), ("kappa", one.kappa), ("alpha", one.alpha)):
            record |= _ends(name, estimate)
        records.append(record)
    note = (
        "Same: both say won, both tied or both lost. Kappa: Cohen's, of two raters. Alpha: Krippendorff's, a win "
        "beside a tie being a quarter of a disagreement. Both are 0 by chance and 1 where all agree."
    )
    header = ["Who", "Compared", "Same, % [95 %]", "Kappa [95 %]", "Alpha [95 %]"]
    return Table("agreement", "Agreement", header, rows, records, [note])


def length_agreement_table(results: Results) -> Table:
    """Of the judge with people, by how far lengths are apart."""
    return _length_table(results.people)


def _length_table(people: People | None) -> Table:
    found = people.lengths if people else []
    rows = [
        [
            f"{one.low:,.0f} to {one.high:,.0f}", str(one.agreement.n), _cell(one.agreement, 1, 100),
            number(one.judge_longer, 1, 100), number(one.people_longer, 1, 100),
        ]
        for one in found
    ]  # fmt: skip
    records: list[dict[str, Value]] = [
        {"low": one.low, "high": one.high, "n": one.agreement.n}
        | with_ends("agreement", one.agreement.value, one.agreement.ci95)
        | {"judge_longer": one.judge_longer, "people_longer": one.people_longer}
        for one in found
    ]
    note = (
        "Thirds of the votes. Prefers the longer: a tie counts as half. A judge that prefers the longer answer "
        "more often than people do likes length itself."
    )
    header = ["Characters apart", "Votes", "Same, % [95 %]", "Judge prefers the longer, %", "People do, %"]
    return Table("agreement_by_length", "Agreement by difference in length", header, rows, records, [note])


def voters_table(results: Results) -> Table:
    """Who voted how: sides, agreement with others and with oneself, time. Of a file of votes alone."""
    return _voters_table(results.people)


def _voters_table(people: People | None) -> Table:
    voting = people.voting if people else None
    return voting_table(voting) if voting is not None else Table("voters", "Persons", [], [], [])


def voting_table(voting: Voting) -> Table:
    """The persons of a file of votes, and all of them together where they are several."""
    rows, records = [], []
    for one in voting.persons:
        rows.append([
            one.person, str(one.votes), str(one.skipped), _cell(one.left, 1, 100), _cell(one.others, 1, 100),
            _cell(one.itself, 1, 100), number(one.seconds, 1), "; ".join(one.told) or NONE,
        ])  # fmt: skip
        record: dict[str, Value] = {"person": one.person, "votes": one.votes, "skipped": one.skipped}
        for name, estimate in (("left", one.left), ("others", one.others), ("itself", one.itself)):
            record |= _ends(name, estimate)
        records.append(record | {"seconds": one.seconds, "told": "; ".join(one.told)})
    if len(rows) > 1:
        rows.append([
            "All", str(voting.votes), str(voting.skipped), _cell(voting.left, 1, 100), NONE,
            _cell(voting.itself, 1, 100), number(voting.seconds, 1), NONE,
        ])  # fmt: skip
    header = ["Person", "Votes", "Skipped", "Left, % [95 %]", "As others, % [95 %]", "As before, % [95 %]"]
    header += ["Seconds", "To doubt"]
    note = (
        "Left: of votes for one of the two; sides are drawn, so who looks at the answers alone says left in half. "
        "As others: of answers that others judged too, who said the same. As before: asked again, sides swapped. "
        "Seconds: the median vote. Intervals hold for these persons, over prompts. To doubt: tests that raise an "
        "alarm on somebody honest in at most 1 % of files each."
    )
    return Table("voters", "Who voted how", header, rows, records, [note])


def _cell(estimate: Estimate | None, digits: int, scale: float, sign: bool = False) -> str:
    return NONE if estimate is None else with_interval(estimate.value, estimate.ci95, digits, scale, sign)


def _ends(name: str, estimate: Estimate | None) -> dict[str, Value]:
    return with_ends(name, *((None, None) if estimate is None else (estimate.value, estimate.ci95)))
