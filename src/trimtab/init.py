"""`trimtab init`: a recipe for somebody's model and data, each setting with a sentence; it runs as it is."""

from __future__ import annotations

import json
import random
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.parsing import parse
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.data.trust import TrustSettings
from trimtab.data.yaml_text import read_yaml
from trimtab.errors import TrimtabError
from trimtab.files import make_folder, write_text
from trimtab.json_types import JsonObject
from trimtab.models.kinds import positions_of
from trimtab.recipe import Recipe
from trimtab.study.asked import check_init
from trimtab.study.sources import resolve_model

MEASURED = 2000
"""Rows whose lengths are counted: drawn evenly from all of them."""
STEPS = (128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384, 32768)
"""Lengths to choose from."""
LONGEST = 8192
HELD = 1000
"""Rows that validation and test have at most, each."""
FEWEST = 3


@dataclass(frozen=True)
class Seen:
    """What the data holds. lengths: tokens of prompt and longest completion; answers: of every completion."""

    rows: int
    layouts: dict[str, int]
    pairs: int
    rankings: int
    labels: int
    scored: int
    answered: int
    unreadable: int
    prompts: list[int]
    lengths: list[int]
    answers: list[int]


def write_recipe(model: str, data: str, out: Path, tokenizer: str | None = None) -> list[str]:
    """Writes a recipe, and returns what was found, in lines. TrimtabError where there is nothing to start from, or
    `out` is there already."""
    check_init(model, data, out)
    settings = DataSettings(train=data, bad_rows="drop")
    places = positions_of(resolve_model(model), TrustSettings())
    chat = ChatFormat(load_tokenizer(resolve_model(tokenizer or model), TrustSettings()), settings)
    splits = split_records(settings)
    seen = look(splits, chat)
    text = _template().render(
        file=" ".join(str(out).split()), name=_name(out), model=model, data=data, tokenizer=tokenizer,
        template=chat.has_template, seen=seen, **_chosen(seen, settings, model, places),
    )  # fmt: skip
    recipe = parse(Recipe, read_yaml(text), str(out))
    make_folder(out.parent)
    write_text(out, text.rstrip() + "\n")
    return [*_found(seen, data), f"Methods: {', '.join(recipe.methods)}."]


def look(splits: Splits, chat: ChatFormat) -> Seen:
    """Counts everything, and the lengths of MEASURED rows at most."""
    records = splits.train
    drawn = records if len(records) <= MEASURED else random.Random(0).sample(records, MEASURED)
    prompts: list[int] = []
    lengths: list[int] = []
    answers: list[int] = []
    for record in drawn:
        prompt, completions = chat.tokens(record.prompt, record.completions, record.origin)
        prompts.append(len(prompt))
        lengths.append(len(prompt) + max(map(len, completions), default=0))
        answers += map(len, completions)
    return Seen(
        rows=len(records),
        layouts=dict(Counter(record.layout for record in records).most_common()),
        pairs=sum(record.is_pair for record in records),
        rankings=sum(len(record.completions) > 2 for record in records),
        labels=sum(record.is_unpaired for record in records),
        scored=sum(record.scores is not None for record in records),
        answered=sum(bool(record.completions) for record in records),
        unreadable=len(splits.unreadable),
        prompts=prompts,
        lengths=lengths,
        answers=answers,
    )


def _found(seen: Seen, data: str) -> list[str]:
    """For people: what the data holds."""
    lines = [f"Data: {data}, {seen.rows:,} rows; {_layouts(seen)}."]
    if seen.unreadable:
        lines.append(f"{seen.unreadable:,} rows cannot be read, and are dropped: `trimtab audit` says why.")
    if seen.lengths:
        lines.append(
            f"Tokens of a row: median {statistics.median(seen.lengths):.0f}, 99 % at most "
            f"{share_at(seen.lengths, 0.99):,}, longest {max(seen.lengths):,}."
        )
    return lines


def share_at(values: Sequence[int], share: float) -> int:
    """The least value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def rounded_up(length: int, most: int) -> int:
    """The next usual limit on tokens that holds `length`, and `most` at most."""
    return min(next((step for step in STEPS if step >= length), most), most)


def _name(out: Path) -> str:
    """A study's name for a file's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", out.stem).strip("-._")
    return name or "mine"


def _methods(seen: Seen) -> list[str]:
    """What the rows can teach. TrimtabError where a study has nothing to imitate."""
    if seen.answered < seen.rows:
        raise TrimtabError(
            f"{seen.rows - seen.answered:,} of {seen.rows:,} rows are prompts without an answer, and a study "
            "begins with supervised fine-tuning. Prompts alone are for one method with a reward: "
            "trimtab grpo --model M --data D --out runs/grpo --reward my_reward.py:function."
        )
    return ["base", "sft", "dpo"] if seen.rows in (seen.pairs, seen.labels) else ["base", "sft"]


def _shares(data: DataSettings, rows: int) -> tuple[float, Splits]:
    """Shares of the prompts for validation and test, and what they give. TrimtabError for too few rows."""
    for share in (min(0.1, HELD / rows), 0.1, 0.15, 0.2, 0.25, 0.3):
        share = max(round(share, 4), 0.0001)
        try:
            splits = split_records(data.model_copy(update={"validation_share": share, "test_share": share}))
        except TrimtabError:
            continue
        if min(len(splits.validation), len(splits.test)) >= FEWEST and len(splits.train) >= FEWEST:
            return share, splits
    raise TrimtabError(
        f"data {data.train}: {rows} rows are too few to train, choose and test on: three different prompts for "
        "each are the least, and some hundred a start."
    )


def _chosen(seen: Seen, data: DataSettings, model: str, places: int | None) -> JsonObject:
    """The values that fit: of the splits, the lengths and the steps. places: the model's positions, if it says."""
    methods = _methods(seen)
    share, splits = _shares(data, seen.rows)
    longest_prompt, answer = max(seen.prompts), rounded_up(share_at(seen.answers, 0.95), 512)
    room = answer if places is None else min(answer, places - longest_prompt)
    if room < 8:
        raise TrimtabError(
            f"data {data.train}: a prompt of {longest_prompt:,} tokens leaves no room for an answer in {model}'s "
            f"{places:,} positions. Take such rows out; trimtab audit shows the lengths."
        )
    max_length = rounded_up(share_at(seen.lengths, 0.99), min(places or LONGEST, LONGEST))
    rows = len(splits.train)
    batch, epochs = max(1, min(16, rows // 16)), 1 if rows >= 1000 else 3
    return {
        "methods": methods,
        "grpo": "dpo" in methods and not seen.labels,
        "layouts": _layouts(seen),
        "share": share,
        "sizes": {"train": rows, "validation": len(splits.validation), "test": len(splits.test)},
        "cut": 100 * sum(length > max_length for length in seen.lengths) / len(seen.lengths),
        "longest": max(seen.lengths),
        "max_length": max_length,
        "batch": batch,
        "epochs": epochs,
        "warmup": min(10, max(1, epochs * rows // batch // 10)),
        "new": room,
        "new_is_room": room < answer,
        "no_longer": 100 * sum(length <= room for length in seen.answers) // len(seen.answers),
    }


def _layouts(seen: Seen) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in seen.layouts.items())


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("trimtab", "recipes"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    # JSON's text is YAML's too: it is read back as it was.
    environment.filters["quoted"] = partial(json.dumps, ensure_ascii=False)
    return environment.get_template("init.yaml.j2")
