"""The sandbox's gold judge as a reward."""

from __future__ import annotations

import pytest

from trimtab.data.records import Message
from trimtab.rewards.base import Reward
from trimtab.sandbox.judge import GoldJudge

ASKED = "I want to buy a house in Lisbon or London."
ANSWER = "Lisbon has low rent, while London has high rent. Choose Lisbon."


def test_the_breakdown_is_the_judgements() -> None:
    judge = GoldJudge()
    assert isinstance(judge, Reward)
    (found,) = judge.scored([ASKED], [ANSWER])
    judgement = judge.judge(ASKED, ANSWER)
    assert found.score == judgement.score == judge.score([ASKED], [ANSWER])[0]
    assert set(found.breakdown) == {
        "correctness", "coverage", "directness", "excess_length", "right", "wrong", "notes"
    }  # fmt: skip
    assert all(value == getattr(judgement, part) for part, value in found.breakdown.items())
    assert found.breakdown["correctness"] == found.breakdown["coverage"] == 1.0
    # 5 · 1 + (3 · 1 + 2) − 0.01 · 11 words; the allowance is 10 + 8 · 2 words.
    assert found.score == pytest.approx(10 - 0.11)


def test_a_conversation_is_judged_by_its_last_user_turn() -> None:
    judge = GoldJudge()
    asked = Message("user", ASKED)
    talks = [
        (asked,),
        (
            Message("user", "Which of these is the best for real snow? Oslo, Rome or Paris."),
            Message("assistant", "Oslo."),
            asked,
        ),
        (asked, Message("assistant", "Let me think.")),
    ]
    assert judge.score([talks[1][0].content], [ANSWER])[0] not in (None, judge.score([ASKED], [ANSWER])[0])
    assert judge.score(talks, [ANSWER] * 3) == judge.score([ASKED], [ANSWER]) * 3
    assert judge.judge(talks[0], ANSWER) == judge.judge(ASKED, ANSWER)


def test_a_prompt_of_another_world_has_no_score() -> None:
    judge = GoldJudge()
    for prompt in ("What is love?", (Message("system", ASKED),)):
        (found,) = judge.scored([prompt], [ANSWER])
        assert (found.score, found.reason) == (None, "not a prompt of the sandbox's world")
        assert found.breakdown == {}
        with pytest.raises(ValueError, match="not a prompt of the sandbox's world"):
            judge.judge(prompt, ANSWER)
