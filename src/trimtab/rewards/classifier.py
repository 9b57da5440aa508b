"""A local sequence classifier with one label as a reward, rendered in its own template and tokenizer.

It is given text and never the policy's tokens. Completions whose prompts come out as the same tokens are
grouped, so that families that serve the tree compute each prompt once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from trimtab.data.adapters import tokenizer_source
from trimtab.data.chat import TruncationSettings, load_tokenizer
from trimtab.data.day import control_tokens_of_model, day_of_model, values_of_model
from trimtab.data.groups import CompletionGroup, pack
from trimtab.data.hashing import hash_source, hash_weights
from trimtab.data.pairs import TurnFormat, reward_format
from trimtab.data.trust import TrustSettings
from trimtab.devices import best_device
from trimtab.models.gguf.place import model_place
from trimtab.models.lora import hash_model
from trimtab.models.reward_model import for_scoring, load_reward_model
from trimtab.models.settings import Precision, resolve_precision, trusting
from trimtab.models.vocabulary import check_ids, check_tokenizer
from trimtab.rewards.local import LocalReward, Row

VERSION = 1
"""Of how rows are rendered: part of the signature."""


class ClassifierReward(LocalReward):
    """Scores with a folder or hub model that transformers loads as a sequence classifier.

    source: the classifier; TrimtabError unless it has one label and a trained head. tokenizer: where its
    own is not in the folder. token_budget: tokens of a pass, packed or padded. device: CUDA where there is
    one. precision: of the products; bf16 scores differ in their second or third digit. trust: what the folder
    may do.
    """

    def __init__(
        self,
        source: str,
        name: str | None = None,
        *,
        tokenizer: str | None = None,
        token_budget: int = 8192,
        device: str | None = None,
        precision: Precision = "float32",
        trust: TrustSettings | None = None,
    ) -> None:
        source, tokenizer = model_place(source), model_place(tokenizer) if tokenizer else None
        self.name = name or Path(source).name
        self.token_budget = token_budget
        self.device = torch.device(device) if device else best_device()
        self.precision = resolve_precision(precision, self.device)
        self.model = load_reward_model(source, trusting(trust), new_head=False)
        self.heads = self.model.heads
        values, control = values_of_model(source), control_tokens_of_model(source)
        self.form = reward_format(
            load_tokenizer(tokenizer or source, trust),
            TruncationSettings(chat_template_kwargs=values, control_tokens=control),
        )
        if isinstance(self.form, TurnFormat) and (day := day_of_model(source)):
            self.form = self.form.with_day(day)
        self.model.bind(self.form)
        self.model.to(self.device).eval()
        check_tokenizer(self.form.tokenizer, self.model.model, f"reward model {source}")
        # A hub name says nothing of its revision, so the weights speak for it.
        local = Path(source).expanduser().is_dir()
        weights = hash_model(source) if local else f"{source}:{hash_weights(self.model.model.state_dict())}"
        reads = "" if tokenizer is None else f"|{hash_source(tokenizer_source(tokenizer))}"
        as_trained = f"|{values}" * bool(values) + f"|control:{control}" * (control != "text")
        self.signature = f"classifier|{VERSION}|{weights}{reads}|{self.precision}{as_trained}"

    @property
    def limit(self) -> int | None:
        """Tokens of the longest row that the classifier was trained on or has positions for."""
        return self.model.max_length

    def _passes(self, rows: Mapping[int, Row]) -> Iterator[tuple[list[int], list[CompletionGroup]]]:
        """Groups of rows within the token budget, each pass with the places of its completions."""
        if not self.model.uses_tree:
            for members, alone in super()._passes(rows):
                yield members, [for_scoring(group) for group in alone]
            return
        yield from self._packed_passes(rows)

    def _score(self, groups: list[CompletionGroup]) -> Sequence[float | list[float]]:
        rows = (row for group in groups for row in (*group.prompts, *group.completions))
        check_ids(rows, self.model.model, f"reward model {self.name}")
        batch = pack(groups).to(self.device)
        bf16 = self.precision == "bf16"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            scores: list[float | list[float]] = self.model(batch).tolist()
        return scores
