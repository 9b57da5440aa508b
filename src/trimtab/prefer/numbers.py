"""What votes say so far: `trimtab prefer --report votes.sqlite`, beside the judge of sources where they are named.

Without sources, win rates are of the answers that were shown: they know of no judge to correct, and of no prompts
whose answers are the same text and therefore ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trimtab.comparing.run import Asked, compare_sources
from trimtab.data.vote_file import CastVote, read_votes
from trimtab.errors import TrimtabError
from trimtab.evaluation.answers import Answers
from trimtab.evaluation.outputs import GivenAnswer, MethodOutputs
from trimtab.evaluation.people import people_of
from trimtab.evaluation.people_result import People, Voting
from trimtab.evaluation.people_words import people_warnings, sentence, voting_warnings
from trimtab.evaluation.voters import voting_of
from trimtab.evaluation.votes import Labels, Vote
from trimtab.json_types import JsonObject
from trimtab.report.people_tables import tables_of, voting_table
from trimtab.report.table import Table


@dataclass(frozen=True)
class VotesReport:
    """people: None where no vote is on an item that chance chose. warnings: what to doubt."""

    voting: Voting
    people: People | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def sentences(self) -> list[str]:
        return [sentence(number) for number in self.people.numbers] if self.people else []

    @property
    def tables(self) -> list[Table]:
        """Those that have rows."""
        return tables_of(self.people) if self.people else [voting_table(self.voting)]

    def as_json(self) -> JsonObject:
        """For a program; numbers as in results.json."""
        return {
            "voting": self.voting.model_dump(),
            "people": self.people and self.people.model_dump(),
            "sentences": list(self.sentences),
            "warnings": list(self.warnings),
        }


def report_votes(
    path: Path, sources: Sequence[str] = (), *, opponent: str | None = None, mapping: Sequence[str] = ()
) -> VotesReport:
    """What a file of votes says. sources, opponent, mapping: as of `trimtab compare`, of which the judge is then
    corrected. TrimtabError where there are no votes, or none of the sources."""
    votes = read_votes(path)
    if not votes:
        raise TrimtabError(f"{path}: nobody has voted yet.")
    if sources:
        results = compare_sources(Asked(sources, mapping, opponent, labels=path)).results
        assert results.people is not None
        assert results.people.voting is not None
        return VotesReport(results.people.voting, results.people, people_warnings(results))
    return report_of(votes, path.name)


def report_of(votes: Sequence[CastVote], source: str) -> VotesReport:
    """What votes say by themselves. source: what they are from, for warnings."""
    people = people_of_votes(votes, source)
    voting = people.voting if people is not None and people.voting is not None else voting_of(votes)
    return VotesReport(voting, people, voting_warnings(source, voting))


def people_of_votes(votes: Sequence[CastVote], source: str) -> People | None:
    """What votes say by themselves, of the items that chance chose; None where there are none."""
    judged = [vote for vote in votes if vote.item.purpose == "random" and vote.share is not None]
    if not judged:
        return None
    seeds: list[int] = sorted({vote.item.seed for vote in judged if vote.item.seed is not None})
    prompts = {_key(vote): vote.item.prompt for vote in judged}
    texts: dict[tuple[str, int | None], dict[str, str]] = {}
    for vote in judged:
        item = vote.item
        for name, text in ((item.first, item.first_completion), (item.second, item.second_completion)):
            texts.setdefault((name, item.seed), {})[_key(vote)] = text
    runs = {
        name: [
            Answers(MethodOutputs(name, [GivenAnswer(key, asked, said.get(key)) for key, asked in prompts.items()]))
            for said in [texts.get((name, seed), {}) for seed in seeds] or [texts[name, None]]
        ]
        for name in dict.fromkeys(name for name, _ in texts)
    }
    labels = Labels(
        source,
        [
            Vote(_key(vote), vote.item.first, vote.item.second, vote.share, vote.person, vote.item.seed)
            for vote in judged
            if vote.share is not None
        ],
        cast=votes,
    )
    return people_of(labels, runs, None, seeds)


def _key(vote: CastVote) -> str:
    """Of the prompt: votes on several sources may be in one file, each with ids of its own."""
    return f"{vote.item.prompt_id} {vote.item.prompt}"
