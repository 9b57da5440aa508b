"""What people's labels say, in sentences of the verdict and warnings."""

from __future__ import annotations

from trimtab.catalogue import label
from trimtab.evaluation.people_result import CorrectedNumber, People, Voting
from trimtab.evaluation.results import Results
from trimtab.formats import counted, interval_text, number, percent

FEW_LABELS = 30
CORRECTED, ALONE = ", corrected by people: ", ", by people's "
"""What a sentence of people's numbers says after the methods: with the judge's, or without."""


def people_sentences(results: Results) -> list[str]:
    """Of every win rate against the opponent, and of each other number in which people and judge part."""
    if results.people is None:
        return []
    rates = [n for n in results.people.numbers if n.kind == "rate" and n.b == (results.opponent or n.b)]
    others = [n for n in results.people.numbers if n not in rates and (n.contradicted or not n.borne_out)]
    return [sentence(n) for n in [*rates, *others]]


def sentence(n: CorrectedNumber) -> str:
    """One corrected number, beside the judge's; without either what labels alone say."""
    of = f"{label(n.a)} {'against' if n.kind == 'rate' else 'less'} {label(n.b)}"
    sign = n.kind == "difference"
    if n.corrected is None or n.judge is None:
        unit = "points of win rate" if sign else "% won"
        alone = f"{number(n.labels.value, 1, 100, sign)} {unit} (95 % interval {interval_text(n.labels.ci95)})"
        return f"{of}{ALONE}{counted(n.labelled, 'label')} alone: {alone}."
    what = f"{number(n.corrected.value, 1, 100, sign)} {'points of win rate' if sign else '% won'}"
    interval = f"95 % interval {interval_text(n.corrected.ci95, sign=sign)}, {n.labelled} of {n.rows} labelled"
    alone = f"the judge alone says {number(n.judge.value, 1, 100, sign)}"
    if n.contradicted:
        alone += ", which people contradict"
    elif not n.borne_out:
        alone += ", which people do not bear out"
    return f"{of}{CORRECTED}{what} ({interval}); {alone}."


def people_warnings(results: Results) -> list[str]:
    """What to doubt of them."""
    people = results.people
    if people is None:
        return []
    warnings = [f"Labels of {people.source}: {line}." for line in people.told]
    if people.not_random:
        differ = "; ".join(people.not_random)
        warnings.append(
            f"The labelled answers are no random sample, which the correction needs: {differ}. Draw the prompts to "
            "label by chance."
        )
    voters = voting_warnings(people.source, people.voting) if people.voting else []
    return warnings + voters + _few(people) + _agreement(people)


def voting_warnings(source: str, voting: Voting) -> list[str]:
    """Whose votes say little of the answers."""
    return [
        f"Votes of {source}: {voter.person} {told}. They count as everybody's do."
        for voter in voting.persons
        for told in voter.told
    ]


def _few(people: People) -> list[str]:
    least = min((n.labelled for n in people.numbers), default=FEW_LABELS)
    if least >= FEW_LABELS:
        return []
    return [f"Of some methods only {least} answers are labelled: below {FEW_LABELS} corrected numbers say little."]


def _agreement(people: People) -> list[str]:
    """Where the judge's agreement may be no better than chance."""
    judge = next((found for found in people.agreement if found.who == "judge"), None)
    if judge is None or judge.kappa is None or judge.kappa.ci95 is None or judge.kappa.ci95[0] > 0:
        return []
    return [
        f"The judge agrees with people on {percent(judge.raw.value)} of {judge.raw.n} votes, which may be chance: "
        f"kappa {number(judge.kappa.value, 2)} (95 % interval {interval_text(judge.kappa.ci95, 1, 2)})."
    ]
