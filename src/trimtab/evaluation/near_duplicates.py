"""Test prompts that are nearly the same: the same request about another example, or with a word changed. What
methods do on one of them tells what they do on the other, so they are no two independent prompts.

Two prompts are near-duplicates where the runs of three words that both have are at least 0.7 of those that either
has: Jaccard's resemblance of shingles (Broder 1997, On the resemblance and containment of documents). Prompts that
a chain of such pairs joins are one group.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from trimtab.evaluation.statistics import Clusters, clusters_of

NEAR_DUPLICATES = "near_duplicates"
"""What `clusters` is set to, to have them taken as one."""
WORDS, RESEMBLANCE = 3, 0.7
UNASKED = 5_000
"""Prompts up to which they are looked for unasked: about a second for a thousand long ones."""
FEW = 0.02
"""Share of the prompts."""
_WORD = re.compile(r"\w+")
_Shingles = frozenset[tuple[str, ...]]


def near_duplicates(prompts: Sequence[str]) -> Clusters:
    """Of each prompt, the number of its group, counted from 0 in the order of the prompts; one that is like no
    other is a group of its own. Prompts without words are alike where they are the same."""
    shingles = [_shingles(prompt) for prompt in prompts]
    parents = list(range(len(prompts)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for i, j in _alike(shingles):
        parents[root(i)] = root(j)
    return clusters_of([str(root(i)) for i in range(len(prompts))])


def told_of(groups: Clusters, prompts: Sequence[str]) -> str | None:
    """A warning where different prompts are in one group; None for fewer than FEW of them, which move no
    interval."""
    distinct: defaultdict[int, set[str]] = defaultdict(set)
    for group, prompt in zip(groups, prompts, strict=True):
        distinct[int(group)].add(prompt)
    several = [texts for texts in distinct.values() if len(texts) > 1]
    count = sum(map(len, several))
    if not several or count < FEW * len(prompts):
        return None
    return (
        f"{count} test prompts are nearly the same as another (groups: {len(several)}), and intervals take them as "
        f"independent. evaluation.clusters={NEAR_DUPLICATES}, or compare --near-duplicates, takes a group as one."
    )


def _shingles(prompt: str) -> _Shingles:
    """Its runs of three words; of a shorter prompt, all its words as one, and of one without any the prompt."""
    words = _WORD.findall(prompt.casefold())
    if len(words) < WORDS:
        return frozenset([tuple(words) or (prompt,)])
    return frozenset(tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1))


def _alike(shingles: Sequence[_Shingles]) -> Iterator[tuple[int, int]]:
    """Every pair of near-duplicates. Two sets that resemble each other so much share one of the rarest few of each
    (prefix filtering: Chaudhuri, Ganti and Kaushik 2006), so most pairs need no look, and none is missed."""
    counts = Counter(shingle for of_prompt in shingles for shingle in of_prompt)
    seen: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, of_prompt in enumerate(shingles):
        size, candidates = len(of_prompt), set[int]()
        rarest = sorted(of_prompt, key=lambda shingle: (counts[shingle], shingle))
        for shingle in rarest[: size - math.ceil(RESEMBLANCE * size) + 1]:
            candidates.update(seen[shingle])
            seen[shingle].append(i)
        for j in candidates:
            both = len(of_prompt & shingles[j])
            if both >= RESEMBLANCE * (size + len(shingles[j]) - both):
                yield i, j
