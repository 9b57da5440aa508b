"""Pairs of samples as rows of a file: how they are written, and how they are trained on.

A row is one of trimtab's own layout, with the text of both completions, so that it can be looked at and any
preference command reads it. Beside it, in `sampled`, are the tokens as they were drawn. A round trains on those:
the text tokenized again may come out as other tokens than the model's own, and one that was cut at the cap would
be given an end of turn that it never had.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trimtab.data.chat import ChatFormat, Dropped, make_group
from trimtab.data.groups import CompletionGroup
from trimtab.data.message import answer_as_json, context_columns, prompt_as_json
from trimtab.data.records import Record
from trimtab.files import write_text
from trimtab.json_types import JsonObject
from trimtab.methods.pairing import Pair
from trimtab.rewards.base import Prompt
from trimtab.rollout.sampler import Sample


class SampledFormat(ChatFormat):
    """Rows that hold the tokens that were drawn: these are trained on, nothing added and nothing cut.

    Other rows, such as validation pairs, are rendered as ever.
    """

    def read_ahead(self, records: Sequence[Record]) -> None:
        """Of rows that hold no tokens."""
        super().read_ahead([record for record in records if record.columns.get("sampled") is None])

    def encode(self, record: Record, index: int = -1) -> CompletionGroup | Dropped:
        """The tokens as they were drawn; other rows as ever."""
        sampled = record.columns.get("sampled")
        if sampled is None:
            return super().encode(record, index)
        rows = [sampled["chosen"], sampled["rejected"]]
        return make_group(record, index, [sampled["prompt"]], rows, sampled["cut"])


def sample_state(sample: Sample) -> JsonObject:
    """A sample as JSON. Its log-probabilities are left out: the reference's pass has them."""
    return {"tokens": sample.tokens, "finish": sample.finish, "temperature": sample.temperature}


def sample_from_state(value: JsonObject) -> Sample:
    """The sample that sample_state wrote, without log-probabilities."""
    return Sample(tuple(value["tokens"]), (), (), value["finish"], value["temperature"])


def pair_row(
    prompt: Prompt, prompt_ids: Sequence[int], samples: Sequence[JsonObject], pair: Pair, win_rates: bool
) -> JsonObject:
    """A pair of samples as a row of pairs.jsonl.

    win_rates: whether they are the row's scores, instead of the rewards. samples: with text and score.
    """
    both = samples[pair.chosen], samples[pair.rejected]
    rewards = tuple(sample["score"] for sample in both)
    scores = pair.win_rates if win_rates else rewards
    return {
        "prompt": prompt_as_json(prompt),
        **context_columns(prompt),
        "chosen": both[0]["text"],
        "rejected": both[1]["text"],
        "score_chosen": scores[0],
        "score_rejected": scores[1],
        "rewards": rewards,
        "win_rates": pair.win_rates,
        "sampled": {
            "prompt": prompt_ids,
            "chosen": both[0]["tokens"],
            "rejected": both[1]["tokens"],
            "cut": [sample["finish"] == "cap" for sample in both],
        },
    }


def held_out_row(record: Record, win_rates: bool) -> JsonObject:
    """A pair of the data's own as a row of validation.jsonl. Who won is known: win rates are 1 and 0."""
    best, worst = answer_as_json(record.completions[0]), answer_as_json(record.completions[-1])
    row = {
        "prompt": prompt_as_json(record.prompt),
        "chosen": best,
        "rejected": worst,
        **context_columns(record.prompt),
    }
    return row | ({"score_chosen": 1.0, "score_rejected": 0.0} if win_rates else {})


def write_rows(path: Path, rows: Sequence[JsonObject]) -> None:
    """Writes rows as JSON lines, all at once."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
