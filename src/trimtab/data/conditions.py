"""Preference pairs under a condition: a score that is asked for, or a length that is.

`ScoreCondition`: reward-augmented data, Zhang et al. 2024 (arXiv 2410.08067), §3. The policy is asked for a score
g, and its reward is R(x, y, g) = −(g − r(x, y))². Each pair with scores gives two: asked for the chosen one's
score, chosen ≻ rejected; asked for the rejected one's, rejected ≻ chosen. In use the best score is asked for. The
chat template itself writes the condition into a prompt, so that what is trained on and what is served are one text:
`target_score` is its variable, and the best score stands where nobody sets it.

`LengthInstruction`: response-conditioned pairs, Cai et al. 2025 (arXiv 2502.00814), §4.2. The same completion under
two prompts: the chosen one prefers its prompt x to x¹, which asks for a length that it fails; the rejected one
prefers x², which asks for a length that it has, to x. One row becomes one group of four branches, so that no pass
can part what is compared: [x | y_w], [x¹ | y_w], [x² | y_l], [x | y_l]. Its first and last are the pair itself.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from trimtab.data.message import Prompt, with_turns
from trimtab.data.records import Record
from trimtab.data.rows import Dropped
from trimtab.data.settings import Seed, Settings
from trimtab.errors import TrimtabError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "trimtab: answers are asked for with a score"


class ScoreCondition(Settings):
    """Each pair under the scores of both its completions; the trained model is asked for the best."""

    kind: Literal["score"] = "score"
    """What pairs are asked for: a score."""
    text: str = "Answer with an overall score of {score}, on a scale from {low} to {high}, where {high} is best."
    """The condition: a system turn, in front of one that is there, or where the template takes none, at the
    head of the user's first turn. The paper's is longer, and names a score from 1 to 10."""
    low: float = Field(1.0, ge=-1e9, le=1e9)
    """The lowest score on the data's scale."""
    high: float = Field(10.0, ge=-1e9, le=1e9)
    """The highest, and the best: what the trained model is asked for where nothing else is."""
    digits: int = Field(1, ge=0, le=15)
    """Decimals of a score in the text. Pairs whose scores are then equal are dropped: either order would do."""

    @field_validator("text")
    @classmethod
    def _check_text(cls, value: str) -> str:
        if value.count("{score}") != 1:
            raise ValueError("must name {score} once: it is where the score stands")
        return value

    @model_validator(mode="after")
    def _check_range(self) -> ScoreCondition:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self

    def rounded_score(self, score: float) -> float:
        """A score as the condition's text has it, rounded: a whole number without decimals."""
        rounded = round(score, self.digits)
        return int(rounded) if rounded == int(rounded) else rounded

    def condition_text(self, score: str) -> str:
        """The condition's text as it stands in a prompt, with the score and the scale's ends put in."""
        scale = {"{low}": self.low, "{high}": self.high}
        text = self.text
        for name, value in scale.items():
            text = text.replace(name, str(self.rounded_score(value)))
        return text.replace("{score}", score)

    def pairs(self, record: Record) -> list[Record] | Dropped:
        """The pair under the chosen completion's score, and the other way round under the rejected one's.

        Whichever score is higher: nearest to what is asked for is best. TrimtabError for a score off the scale.
        """
        if record.scores is None:
            return Dropped("no scores", record.origin)
        for score in (record.scores[0], record.scores[-1]):
            if not self.low <= score <= self.high:
                raise TrimtabError(
                    f"{record.origin}: the score {score:g} is not on the scale from {self.low:g} to {self.high:g}. "
                    "Set condition.low and condition.high to what the data's scores are on."
                )
        chosen, rejected = self.rounded_score(record.scores[0]), self.rounded_score(record.scores[-1])
        if chosen == rejected:
            return Dropped("equal scores", record.origin)
        turned = {name: getattr(record, name) for name in ("completions", "scores", "labels")}
        turned = {name: values and tuple(reversed(values)) for name, values in turned.items()}
        return [replace(record, condition=chosen), replace(record, condition=rejected, **turned)]

    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer with a chat template that asks for `target_score`, by default the best.

        TrimtabError for one without a template, or whose template asks for a score already.
        """
        conditioned = copy.deepcopy(tokenizer)
        template = conditioned.chat_template
        if not template:
            raise TrimtabError(
                "condition: the tokenizer has no chat template to write the score into, so the trained model would "
                "not be asked for any. Name a tokenizer that has one with --tokenizer (in a recipe: tokenizer)."
            )
        by_name = template if isinstance(template, dict) else {"": template}
        if any(MARK in text for text in by_name.values()):
            raise TrimtabError(
                "condition: the model's chat template asks for a score already. Start from a model trained without."
            )
        head = self._head(_takes_system(tokenizer))
        with_head = {name: head + text for name, text in by_name.items()}
        conditioned.chat_template = with_head if by_name is template else with_head[""]
        return conditioned

    def _head(self, system: bool) -> str:
        """What is put before a template: it changes `messages`, and prints nothing."""
        best = self.rounded_score(self.high)
        before, after = map(_literal, self.condition_text("{score}").split("{score}"))
        # The turn that takes the condition in, and what stands before it.
        at = "0" if system else "1 if messages[0]['role'] == 'system' and messages | length > 1 else 0"
        inserted = "messages[0]['role'] != 'system'" if system else "false"
        role = "'system'" if system else "messages[trimtab_at]['role']"
        rest = "messages[trimtab_at + (0 if trimtab_inserted else 1):]"
        return "\n".join(
            (
                f"{{#- {MARK} -#}}",
                f"{{%- set trimtab_score = target_score if target_score is defined else {best} -%}}",
                f"{{%- set trimtab_text = {before} ~ trimtab_score ~ {after} -%}}",
                f"{{%- set trimtab_at = {at} -%}}",
                f"{{%- set trimtab_inserted = {inserted} -%}}",
                "{%- set trimtab_old = '' if trimtab_inserted else messages[trimtab_at]['content'] -%}",
                # Content is a text, or a list of parts.
                "{%- set trimtab_new = trimtab_text if trimtab_inserted "
                "else trimtab_text ~ '\\n\\n' ~ trimtab_old if trimtab_old is string "
                "else [{'type': 'text', 'text': trimtab_text ~ '\\n\\n'}] + trimtab_old -%}",
                "{%- set messages = messages[:trimtab_at] + "
                f"[{{'role': {role}, 'content': trimtab_new}}] + {rest} %}}",
                # A template begins where a line does: its first block may stand behind white space.
                "",
            )
        )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template shows what a system turn says: some refuse one, some leave it out."""
    turns = [{"role": "system", "content": MARK}, {"role": "user", "content": "?"}]
    try:
        return MARK in tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # templates raise whatever they like
        return False


class LengthInstruction(Settings):
    """How a prompt asks for a length, in words. The bound is drawn around the completion's own length."""

    at_most: str = "Answer the following instruction using {words} words or less.\n\n{prompt}"
    """How a prompt asks for a length that is not exceeded. Of Yuan et al. 2024 (arXiv 2406.17744), which the paper
    builds on. Put behind the prompt ("{prompt}\\n\\nUse {words} words or less."), it leaves the prompt common, and
    so computed once."""
    at_least: str = "Answer the following instruction using {words} words or more.\n\n{prompt}"
    """How it asks for a length that is not fallen short of."""
    spread: float = Field(2.0, gt=1, le=1000)
    """Bounds lie between the completion's words ÷ spread and × spread, evenly in the logarithm."""
    seed: Seed = 0
    """The bounds are drawn from it; each depends on this, the prompt and the completion alone."""

    @field_validator("at_most", "at_least")
    @classmethod
    def _check_at_most_and_at_least(cls, value: str) -> str:
        if value.count("{words}") != 1 or value.count("{prompt}") != 1:
            raise ValueError("must name {words} and {prompt} once each")
        return value

    def pairs(self, record: Record) -> list[Record] | Dropped:
        """The pair as four completions with a prompt each: x, x¹ (the chosen one fails it), x² (the rejected one
        keeps to it), x."""
        chosen, rejected = record.completions[0], record.completions[-1]
        asked = (
            self.with_length(record.prompt, chosen, kept=False),
            self.with_length(record.prompt, rejected, kept=True),
        )
        scores, labels = record.scores, record.labels
        return [
            replace(
                record,
                completions=(chosen, chosen, rejected, rejected),
                prompts=(record.prompt, *asked, record.prompt),
                scores=scores and (scores[0], scores[0], scores[-1], scores[-1]),
                labels=labels and (labels[0], labels[0], labels[-1], labels[-1]),
            )
        ]

    def with_length(self, prompt: Prompt, completion: str, kept: bool) -> Prompt:
        """The prompt with a length that the completion keeps to, or fails. The last user turn asks."""
        most, bound = self.bound(len(completion.split()), kept, repr((self.seed, prompt, completion)))
        template = (self.at_most if most else self.at_least).replace("{words}", str(bound))
        if isinstance(prompt, str):
            return template.replace("{prompt}", prompt)
        last = max((i for i, turn in enumerate(prompt) if turn.role == "user"), default=len(prompt) - 1)
        turn = replace(prompt[last], content=template.replace("{prompt}", prompt[last].content))
        return with_turns(prompt, (*prompt[:last], turn, *prompt[last + 1 :]))

    def bound(self, words: int, kept: bool, key: str) -> tuple[bool, int]:
        """Whether at most or at least so many words are asked for, and how many.

        The bound is drawn first, above or below the completion's length as often; then the side follows that is
        kept to, or failed. So neither the side nor where the bound lies says by itself which it is.
        """
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        rng = random.Random(int.from_bytes(digest))
        above = rng.random() < 0.5 or (words <= 1 and not kept)
        bound = round(words * self.spread ** (rng.random() if above else -rng.random()))
        if not kept:  # one that equals the length would be kept to
            bound = max(bound, words + 1) if above else min(bound, words - 1)
        return above == kept, max(1, bound)
