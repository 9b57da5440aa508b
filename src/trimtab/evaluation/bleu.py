"""Corpus BLEU-1, -2 and -4 by sacrebleu (Post 2018), 0 to 100.

`max_ngram_order` is 1, 2 and 4 and `effective_order` is off (it is a fix for single sentences; over a
corpus every order is counted). sacrebleu's own signature does not hold the order, so it is put in front.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU

from trimtab.evaluation.results import Bleu

ORDERS = (1, 2, 4)


def corpus_bleu(completions: Sequence[str], references: Sequence[str]) -> Bleu:
    """BLEU of completions against one reference each (the chosen texts)."""
    if len(completions) != len(references):
        raise ValueError(f"{len(completions)} completions for {len(references)} references")
    if not completions:
        raise ValueError("BLEU of no completions")
    scores: dict[str, float] = {}
    signature = ""
    for order in ORDERS:
        metric = BLEU(max_ngram_order=order, effective_order=False)
        scores[str(order)] = float(metric.corpus_score(list(completions), [list(references)]).score)
        signature = str(metric.get_signature())
    orders = ",".join(map(str, ORDERS))
    return Bleu.model_validate({**scores, "signature": f"max_ngram_order:{orders}|{signature}"})
