"""How models are evaluated, and what one evaluation is given."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from trimtab.data.records import Record
from trimtab.data.settings import BUDGET, IN_MEMORY, ROWS, TOKENS, Seed, Settings
from trimtab.data.splits import DataSettings
from trimtab.data.trust import TrustSettings
from trimtab.evaluation.outputs import Generation
from trimtab.json_types import JsonObject
from trimtab.models.settings import Precision
from trimtab.rewards.base import Reward
from trimtab.rollout.sampler import HOTTEST, Engine, VLLMSettings, check_temperature

if TYPE_CHECKING:
    from trimtab.models.policy import Policy


DRAWS = "draws:2"
"""Of the samples that this package draws itself: another number for other random numbers."""


class Decoding(Settings):
    """How completions are decoded; the same for every method of a comparison."""

    strategy: Literal["greedy", "beam", "sample"] = "sample"
    """sample: drawn, as people use a model. greedy: the likeliest token each time. beam: the likeliest of num_beams
    sequences."""
    max_new_tokens: int = Field(350, gt=0, le=TOKENS)
    """Tokens of a completion at most; one that reaches them is cut."""
    target_length: int | None = Field(None, gt=0, le=TOKENS)
    """Tokens, end of turn included, that models with a length encoding count down from; None: what each has in its
    config. Other models have no such input."""
    num_beams: int = Field(4, gt=0, le=10_000)
    """Sequences that beam search follows at once."""
    length_penalty: float = Field(0.9, ge=-100, le=100)
    """Beam search divides a score by length ** length_penalty; transformers counts new tokens only, vLLM the
    prompt too."""
    temperature: float = Field(0.6, gt=0, le=HOTTEST)
    """For sample: below 1 the likelier tokens gain."""
    top_p: float = Field(0.95, gt=0, le=1)
    """For sample: only the likeliest tokens, up to this share of probability."""
    top_k: int = Field(0, ge=0, le=10**7)
    """For sample: only so many of the likeliest tokens, and top_p of these; 0: no limit."""
    seed: Seed = 0
    """For sample: the same seed draws the same."""
    batch_size: int = Field(64, gt=0, le=IN_MEMORY)
    """Prompts that transformers decodes together; vLLM decides itself."""
    engine: Engine = "transformers"
    """Who decodes: transformers, or vLLM."""
    vllm: VLLMSettings = VLLMSettings()
    """What vLLM takes of the machine, where it decodes."""

    @model_validator(mode="after")
    def _check_temperature(self) -> Decoding:
        check_temperature(self.engine, self.temperature)
        if self.target_length is not None and self.target_length > self.max_new_tokens:
            raise ValueError("target_length is beyond max_new_tokens, which would cut every completion")
        return self

    def unheard_by(self, policy: Policy) -> str | None:
        """What a policy is not fed of these settings, in words."""
        if self.target_length is None or policy.inputs.encoding is not None:
            return None
        return f"has no length encoding; target_length={self.target_length} does not reach it"

    def signature(self) -> str:
        """Everything that the completions depend on beside model and prompts."""
        by_vllm = self.engine == "vllm"
        sampled = [f"temperature:{self.temperature}", f"top_p:{self.top_p}", f"seed:{self.seed}"]
        sampled += [f"top_k:{self.top_k}"] if self.top_k else []
        parts = {
            "greedy": [],
            "beam": [f"beams:{self.num_beams}", f"length_penalty:{self.length_penalty}"],
            "sample": [*sampled, *([] if by_vllm else [DRAWS])],
        }[self.strategy]
        return "|".join(
            [
                f"engine:{self.engine}-{_version(self.engine)}",
                f"strategy:{self.strategy}",
                *parts,
                f"cap:{self.max_new_tokens}",
                *([f"target:{self.target_length}"] if self.target_length is not None else []),
                *([] if by_vllm else [f"batch:{self.batch_size}"]),
            ]
        )

    @property
    def in_words(self) -> str:
        """How completions are decoded, in a line."""
        if self.strategy == "greedy":
            return "greedy"
        if self.strategy == "beam":
            return f"beam search with {self.num_beams} beams"
        limits = [f"temperature {self.temperature:g}"]
        limits += [f"top-p {self.top_p:g}"] if self.top_p < 1 else []
        limits += [f"top-k {self.top_k}"] if self.top_k else []
        return f"sampling at {', '.join(limits)}, seed {self.seed}"

    def arguments(self) -> JsonObject:
        """What transformers' generate takes for this strategy."""
        if self.strategy == "beam":
            return {"do_sample": False, "num_beams": self.num_beams, "length_penalty": self.length_penalty}
        if self.strategy == "sample":
            return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {"do_sample": False, "num_beams": 1}


def _version(engine: Engine) -> str:
    """Of the library that decodes, which is loaded for it."""
    if engine == "vllm":
        from trimtab.rollout import vllm

        return vllm.version()
    import transformers

    return str(transformers.__version__)


class EvaluationSettings(TrustSettings):
    """What `evaluation` takes in a recipe."""

    decoding: Decoding = Decoding()
    """How completions are decoded."""
    precision: Precision = "auto"
    """What products are computed in: bf16 by autocast, or float32. auto: as in training."""
    token_budget: int = Field(4096, gt=0, le=BUDGET)
    """Packed tokens of a pass for perplexity: memory and speed."""
    clusters: str | None = None
    """A column of the test rows: rows with the same value, such as questions about one document, are not
    independent, and intervals take them as one. near_duplicates: prompts that are nearly the same are one. null:
    rows of the same prompt are one."""
    difficulty: str | None = None
    """A column of the test rows: a number for how hard a prompt is, of any scale, for the win rate at equal
    length. null: the outcomes of the other methods tell it, where there are three that don't repeat each other."""
    judge_probes: int | None = Field(None, ge=0, le=ROWS)
    """Answers that the judge is asked about once more, and with harmless padding, for its card; null: 100, or 20 of
    a judge on a server."""
    labels: str | None = None
    """A file of what people said of some answers, by which the judge is corrected. It may be named once the answers
    are there: nothing is made anew for it."""


@dataclass(frozen=True)
class EvaluationTask:
    """One model to evaluate: which rows it answers, how, and the folder that keeps it all.

    name: of the method. model: a folder or hub name. model_hash: of its weights. test: rows whose prompts are
    answered. validation: rows whose chosen completions give the perplexity. judge: None where nothing is scored.
    tokenizer: None for the model's own. report: takes a line on how far it is. day: of chat templates that ask
    for today. replaces: what the folder holds of other inputs is made anew, which is said; without it TrimtabError.
    in_order: whether rows are completed in their order, rather than with others of like length. opponent: its
    answers to the same rows, for a judge that compares two; without them that judge says nothing here.
    """

    name: str
    model: str
    model_hash: str
    test: Sequence[Record]
    validation: Sequence[Record]
    settings: EvaluationSettings
    data: DataSettings
    judge: Reward | None
    folder: Path
    tokenizer: str | None = None
    report: Callable[[str], None] = lambda line: None
    day: datetime.date | None = None
    replaces: bool = True
    in_order: bool = False
    opponent: Sequence[Generation] | None = None

    @property
    def scorer(self) -> Reward | None:
        """The judge, where it has what it needs."""
        return None if self.judge is not None and self.judge.compares and self.opponent is None else self.judge

    @property
    def tokenizer_source(self) -> str:
        """Where its tokenizer comes from."""
        return self.tokenizer or self.model
