"""The checkpoint that a judge likes best: answers to validation prompts, scored at each evaluation.

A loss on other people's answers says little of a model's own. With `best_metric: judge` the model answers greedily,
and the mean of the judge's scores chooses. Methods that sample validation prompts anyway have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from trimtab.data.answerable import renderable_prompts
from trimtab.data.chat import ChatFormat
from trimtab.data.records import Record, columns_of
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import generate, stop_tokens
from trimtab.evaluation.settings import Decoding
from trimtab.models.policy import Policy
from trimtab.notices import warn
from trimtab.rewards.base import Reward
from trimtab.training.schedule import JUDGED, TrainingSettings


def judged_answers(
    name: str,
    policy: Policy,
    chat: ChatFormat,
    records: Sequence[Record],
    settings: TrainingSettings,
    judge: Reward | None,
) -> Callable[[], dict[str, float]]:
    """What answers the validation prompts with the model as it is then, and scores them: {"judge": mean score}.

    TrimtabError where there is no judge that scores answers one by one, or no prompt to answer.
    """
    if judge is None or judge.compares:
        why = "there is none" if judge is None else f"{judge.name} compares two answers"
        raise TrimtabError(f"{name}: best_metric=judge needs a judge that scores answers, and {why}.")
    room = (getattr(policy.model.config, "max_position_embeddings", None) or 2**31) - settings.judged_tokens
    fitting = (row for row, ids in renderable_prompts(records, chat) if len(ids) <= room)
    asked = list(islice(fitting, settings.judged_prompts))
    if not asked:
        raise TrimtabError(f"{name}: best_metric=judge needs validation prompts that leave room for an answer.")
    prompts, columns = [row.prompt for row in asked], columns_of(asked, records)
    decoding = Decoding(max_new_tokens=settings.judged_tokens)
    stops = stop_tokens(policy.model, chat)

    def judged() -> dict[str, float]:
        answers = generate(policy, chat, prompts, decoding, stops)
        scored = judge.scored(prompts, [answer.text for answer in answers], columns=columns)
        scores = [one.score for one in scored if one.score is not None]
        if not scores:
            reason = next((one.reason for one in scored if one.reason), "it said nothing")
            raise TrimtabError(f"{name}: {judge.name} gave no validation answer a score ({reason}).")
        if missing := len(scored) - len(scores):
            lacking = f"{missing} of {len(scored)} validation answers have no score by {judge.name}"
            warn(lacking, about="judged answers")
        return {JUDGED: sum(scores) / len(scores)}

    return judged
