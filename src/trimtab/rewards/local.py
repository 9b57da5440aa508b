"""What rewards that run a model here share: rows in the model's own format, passes within a token budget."""

from __future__ import annotations

import math
import statistics
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from trimtab.data.groups import CompletionGroup, cut_places
from trimtab.data.pairs import RewardFormat
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject
from trimtab.models.reward_model import for_scoring
from trimtab.progress import Progress
from trimtab.rewards.base import Columns, Prompt, Reward, Scored
from trimtab.rewards.values import as_score

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a prompt and of its completion."""


def _size(row: Row) -> int:
    return len(row[0]) + len(row[1])


class LocalReward(Reward):
    """A reward that runs a model here. form: how its rows are written. token_budget: tokens of a pass."""

    form: RewardFormat
    token_budget: int

    @property
    @abstractmethod
    def limit(self) -> int | None:
        """Tokens of the longest row; None where there is no limit."""

    @abstractmethod
    def _score(self, groups: list[CompletionGroup]) -> Sequence[float | list[float]]:
        """The scores of a pass, one a completion; a list of each head's where there are several."""

    def scored(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        completion_ids: Sequence[Sequence[int]] | None = None,
        columns: Columns | None = None,
    ) -> list[Scored]:
        """One Scored for each completion, in order. No score for a row that the template refuses, that has
        more tokens than the model positions (nothing is ever cut), or whose score is not finite."""
        out: list[Scored] = []
        rows: dict[int, Row] = {}
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = self._row(prompt, completion)
            out.append(Scored(None, row if isinstance(row, str) else None))
            if not isinstance(row, str):
                rows[i] = row
        work = sum(map(_size, rows.values()))
        with Progress(f"scores by {self.name}", len(rows), "completions", work=work) as progress:
            for places, members in self._passes(rows):
                for i, score in zip(places, self._score(members), strict=True):
                    out[i] = as_score(self.name, score) if isinstance(score, float) else of_heads(self.name, score)
                read = sum(_size(rows[i]) for i in places)
                progress.advance(len(places), tokens=read, work=read)
        return out

    def _row(self, prompt: Prompt, completion: str) -> Row | str:
        """The tokens of the prompt and of the completion, or why there is nothing to score."""
        try:
            before, (after,) = self.form.tokens(prompt, [completion])
        except TrimtabError as error:
            return str(error)
        if not before or not after:
            return "empty prompt" if not before else "empty completion"
        limit = self.limit
        if limit is not None and len(before) + len(after) > limit:
            return f"{len(before) + len(after)} tokens, but {self.name} takes {limit}"
        return tuple(before), tuple(after)

    def _passes(self, rows: Mapping[int, Row]) -> Iterator[tuple[list[int], list[CompletionGroup]]]:
        """Groups of one completion, each pass with their places. Rows of like length are together: each costs
        as much as the longest of its pass."""

        left = sorted(rows, key=lambda i: (-_size(rows[i]), i))
        while left:
            size = max(1, self.token_budget // _size(rows[left[0]]))
            yield left[:size], [CompletionGroup(rows[i][0], (rows[i][1],)) for i in left[:size]]
            left = left[size:]

    def _packed_passes(self, rows: Mapping[int, Row]) -> Iterator[tuple[list[int], list[CompletionGroup]]]:
        """Groups of rows with the same prompt, made for scoring and cut by the token budget, each pass with the
        places of its completions: for models that serve the tree."""
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for i, (prompt, _) in rows.items():
            by_prompt.setdefault(prompt, []).append(i)
        places: list[list[int]] = []
        for prompt, members in by_prompt.items():
            used = math.inf
            for i in members:
                used += len(rows[i][1])
                if used > self.token_budget:  # a group is never split by the cutting of passes
                    places.append([])
                    used = len(prompt) + len(rows[i][1])
                places[-1].append(i)
        groups = [
            for_scoring(CompletionGroup(rows[group[0]][0], tuple(rows[i][1] for i in group))) for group in places
        ]
        for chosen in cut_places(groups, self.token_budget):
            yield [i for m in chosen for i in places[m]], [groups[m] for m in chosen]


def of_heads(name: str, scores: Sequence[float]) -> Scored:
    """The mean of several heads' scores, with each and their spread beside it."""
    parts: JsonObject = {"spread": statistics.pstdev(scores)} if all(map(math.isfinite, scores)) else {}
    parts |= {f"head_{head}": score for head, score in enumerate(scores)}
    return as_score(name, sum(scores) / len(scores), parts)
