"""`trimtab audit`: everything that can be said of a data set before anything is trained on it.

Rows and layouts, what cannot be read or used, lengths, markers (markers.py), contradictions, prompts that
splits share, odd characters (oddities.py). Lengths are in tokens where a tokenizer is given, the template and
the end of turn included, as training would see them; else in characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from trimtab.audit.markers import Marker, find_markers
from trimtab.audit.oddities import (
    Occurrences,
    SharedPrompts,
    conflicts,
    matched_by_label,
    odd_characters,
    shared_prompts,
    text_of_prompt,
)
from trimtab.audit.preferences import AuditReport, LengthQuantiles, audit, quantiles
from trimtab.data.chat import ChatFormat, Dropped, TruncationSettings, load_tokenizer, unusable
from trimtab.data.message import Prompt
from trimtab.data.records import Record
from trimtab.data.split_groups import choose
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.data.template_features import ignored_of
from trimtab.data.trust import TrustSettings
from trimtab.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Side = Literal["prompt", "chosen", "rejected", "desirable", "undesirable", "completion"]
MAX_PAIRS = 5000
"""Markers are looked for in so many pairs: n-grams of more would not fit in memory."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LabelFindings(_Model):
    """KTO's labels. prompts_with_both: prompts from which data.pair_labels could make pairs."""

    desirable: int
    undesirable: int
    prompts_with_both: int
    matched: int
    """Desirable and undesirable completions compared at random: see oddities.matched_by_label."""
    markers: list[Marker]
    markers_of_undesirable: list[Marker]


class SplitFindings(_Model):
    """One split. audit: counts, and the markers of its pairs. lengths: in `unit`, before any truncation."""

    rows: int
    conversations: int
    """Prompts of more than one turn."""
    system_prompts: int
    dropped: dict[str, Occurrences]
    truncated: int | None = None
    """Completions longer than data.max_length leaves room for; None without a tokenizer."""
    lengths: dict[Side, LengthQuantiles]
    chosen_longer_share: float | None
    """Of the pairs whose two completions differ; equal lengths are not longer."""
    conflicts: Occurrences
    odd_characters: dict[str, Occurrences]
    ignored: dict[str, Occurrences] = Field(default_factory=dict)
    """What rows hold and nothing reads, "column id"; the rows are kept. Reward functions may read columns."""
    audit: AuditReport
    labels: LabelFindings | None = None
    remarks: dict[str, Occurrences] = Field(default_factory=dict)
    """Rows that are used and hold control tokens or other added tokens, or that the template shows otherwise; none
    without a tokenizer."""


class Findings(_Model):
    """What `trimtab audit` found in a data set: the content of audit.json."""

    schema_version: Literal[1] = 1
    source: str
    unit: Literal["tokens", "characters"]
    max_length: int | None
    """Tokens of a prompt with a completion that drops and truncation were counted for; None without a tokenizer."""
    layouts: dict[str, int]
    unreadable: dict[str, Occurrences] = Field(default_factory=dict)
    unpaired_labels: int = 0
    splits: dict[str, SplitFindings]
    shared_prompts: list[SharedPrompts] = Field(default_factory=list)


def examine(settings: DataSettings, tokenizer: str | None = None, trust: TrustSettings | None = None) -> Findings:
    """Reads what the settings name, and says what is in it. Rows that cannot be read are counted, not raised."""
    counting = settings.model_copy(update={"bad_rows": "drop"})
    splits = split_records(counting)
    chat = MeasuringFormat(load_tokenizer(tokenizer, trust), counting) if tokenizer else None
    parts = {name: records for name in ("train", "validation", "test") if (records := getattr(splits, name))}
    layouts = Counter(record.layout for records in parts.values() for record in records)
    with Progress("audit", len(parts), "splits") as progress:
        splits_found = {}
        for name, records in parts.items():
            splits_found[name] = examine_split(records, chat)
            progress.advance()
    return Findings(
        source=settings.train,
        unit="tokens" if chat else "characters",
        max_length=settings.max_length if chat else None,
        layouts=dict(layouts.most_common()),
        unreadable=_by_reason(splits),
        unpaired_labels=splits.unpaired,
        splits=splits_found,
        shared_prompts=shared_prompts(parts),
    )


def _by_reason(splits: Splits) -> dict[str, Occurrences]:
    out: dict[str, Occurrences] = {}
    for line in splits.unreadable:
        origin, _, reason = line.partition(": ")
        out.setdefault(reason, Occurrences()).add(origin)
    return out


def examine_split(records: Sequence[Record], chat: MeasuringFormat | None = None) -> SplitFindings:
    """What is in one split. chat: measures lengths in tokens, and says which rows training would drop or cut."""
    remarks: dict[str, Occurrences] = {}
    with Progress("lengths", len(records)) as progress:
        measured, dropped, truncated = _measure(records, chat, remarks, progress)
    lengths, longer = _lengths(measured)
    prompts = [record.prompt for record in records if isinstance(record.prompt, tuple)]
    return SplitFindings(
        rows=len(records),
        conversations=sum(len(prompt) > 1 for prompt in prompts),
        system_prompts=sum(prompt[0].role == "system" for prompt in prompts),
        dropped=dropped,
        truncated=truncated if chat else None,
        lengths=lengths,
        chosen_longer_share=longer,
        conflicts=conflicts(records),
        odd_characters=odd_characters(records),
        ignored=_ignored(records, chat),
        audit=audit(records, max_pairs=MAX_PAIRS),
        labels=_labels(records),
        remarks=dict(sorted(remarks.items())),
    )


def _ignored(records: Sequence[Record], chat: MeasuringFormat | None) -> dict[str, Occurrences]:
    out: dict[str, Occurrences] = {}
    for record in records:
        for name in ignored_of(record, chat) if chat else record.ignored:
            out.setdefault(name, Occurrences()).add(record.origin)
    return dict(sorted(out.items()))


class MeasuringFormat(ChatFormat):
    """A ChatFormat that notes how long a record was before any of it was cut."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, truncation: TruncationSettings | None = None) -> None:
        super().__init__(tokenizer, truncation)
        self.lengths: tuple[int, list[int]] | None = None
        """Of the record that is encoded: tokens of its prompt, and of each completion."""

    def tokens(
        self, prompt: Prompt, completions: Sequence[str], origin: str = ""
    ) -> tuple[list[int], list[list[int]]]:
        """ChatFormat's tokens; the lengths of the first that are asked for are kept."""
        prompt_ids, completion_ids = super().tokens(prompt, completions, origin)
        # The first call is for the whole prompt, later ones for what is left of it.
        self.lengths = self.lengths or (len(prompt_ids), [len(ids) for ids in completion_ids])
        return prompt_ids, completion_ids


Measured = tuple[Record, int, list[int]]
"""A record with the lengths of its prompt and of its completions."""


def _measure(
    records: Sequence[Record], chat: MeasuringFormat | None, remarks: dict[str, Occurrences], progress: Progress
) -> tuple[list[Measured], dict[str, Occurrences], int]:
    """Rows with their lengths, which of them training would drop and why, and how many completions it would cut.

    remarks: takes what there is to remark on rows that are used."""
    measured: list[Measured] = []
    dropped: dict[str, Occurrences] = {}
    truncated = 0
    for record in records:
        row = choose(record, "pair") if record.is_pair else record
        if chat is None:
            reason = unusable(row) or ("identical completions" if row.is_pair and _same(row) else None)
            lengths = len(text_of_prompt(row)), [len(completion) for completion in row.completions]
        else:
            chat.lengths = None
            encoded = chat.encode(replace(row, labels=None))
            reason = encoded.reason if isinstance(encoded, Dropped) else None
            for remark in () if reason else chat.remarks:
                remarks.setdefault(remark, Occurrences()).add(record.origin)
            truncated += 0 if isinstance(encoded, Dropped) or not row.completions else sum(encoded.truncated)
            lengths = chat.lengths or (0, [])
        if reason:
            dropped.setdefault(reason, Occurrences()).add(record.origin)
        progress.advance()
        if chat is None or chat.lengths is not None:
            measured.append((row, *lengths))
    return measured, dict(sorted(dropped.items())), truncated


def _same(record: Record) -> bool:
    return record.completions[0] == record.completions[-1]


def _lengths(measured: Sequence[Measured]) -> tuple[dict[Side, LengthQuantiles], float | None]:
    sides: dict[Side, list[int]] = {}
    longer: list[bool] = []
    by_labels: dict[tuple[bool, ...] | None, Side] = {
        (True,): "desirable",
        (False,): "undesirable",
        None: "completion",
    }
    for record, prompt, completions in measured:
        sides.setdefault("prompt", []).append(prompt)
        if record.is_pair:
            sides.setdefault("chosen", []).append(completions[0])
            sides.setdefault("rejected", []).append(completions[-1])
            if not _same(record):
                longer.append(completions[0] > completions[-1])
        elif record.completions:
            sides.setdefault(by_labels[record.labels], []).append(completions[0])
    return {side: quantiles(values) for side, values in sides.items()}, (
        sum(longer) / len(longer) if longer else None
    )


def _labels(records: Sequence[Record]) -> LabelFindings | None:
    unpaired = [record for record in records if record.is_unpaired]
    if not unpaired:
        return None
    prompts = {label: {r.prompt for r in unpaired if r.labels == (label,)} for label in (True, False)}
    matched = matched_by_label(unpaired)[:MAX_PAIRS]
    markers, of_undesirable, _ = find_markers(matched) if matched else ([], [], {})
    return LabelFindings(
        desirable=sum(record.labels == (True,) for record in unpaired),
        undesirable=sum(record.labels == (False,) for record in unpaired),
        prompts_with_both=len(prompts[True] & prompts[False]),
        matched=len(matched),
        markers=markers,
        markers_of_undesirable=of_undesirable,
    )
