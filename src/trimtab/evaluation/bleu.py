"""Corpus BLEU-1, -2 and -4 by sacrebleu (Post 2018), 0 to 100.

`max_ngram_order` is 1, 2 and 4 and `effective_order` is off (it is a fix for single sentences; over a
corpus every order is counted). sacrebleu's own signature does not hold the order, so it is put in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics.bleu import BLEU

ORDERS = (1, 2, 4)


class Bleu(NamedTuple):
    """Corpus BLEU by its order, 0 to 100, and how sacrebleu counted."""

    bleu_1: float
    bleu_2: float
    bleu_4: float
    signature: str


def corpus_bleu(completions: Sequence[str], references: Sequence[str]) -> Bleu:
    """BLEU of completions against one reference each (the chosen texts).

    ValueError where there are none, or not as many references as completions.
    """
    if len(completions) != len(references):
        raise ValueError(f"{len(completions)} completions for {len(references)} references")
    if not completions:
        raise ValueError("BLEU of no completions")
    metric = BLEU(max_ngram_order=max(ORDERS), effective_order=False)
    counted = metric.corpus_score(list(completions), [list(references)])
    scores = {  # from one count of n-grams
        order: BLEU.compute_bleu(
            counted.counts[:order], counted.totals[:order], counted.sys_len, counted.ref_len,
            smooth_method=metric.smooth_method, smooth_value=metric.smooth_value, max_ngram_order=order,
        ).score
        for order in ORDERS
    }  # fmt: skip
    orders = ",".join(map(str, ORDERS))
    return Bleu(scores[1], scores[2], scores[4], f"max_ngram_order:{orders}|{metric.get_signature()}")
