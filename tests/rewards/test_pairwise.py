"""A judge that sees both answers: what it asks, how strictly it reads, and what becomes of contradictions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from servers.judge_server import Biases, judging
from trimtab.data.records import Message
from trimtab.errors import TrimtabError
from trimtab.rewards.base import OPPONENT_COLUMN, Reward, Scored
from trimtab.rewards.pairwise import (
    RUBRIC,
    PairwiseSettings,
    both_orders,
    question,
    read_verdict,
    verdict_of,
)
from trimtab.rewards.settings import reward_given, reward_named
from trimtab.rewards.settings_base import RewardContext

FAST: dict[str, Any] = {"timeout": 5.0, "backoff": 0.01, "longest_wait": 0.1, "retries": 8}


def judge(url: str, cache: Path | None = None, **settings: Any) -> Reward:
    given = {"kind": "pairwise", "model": "j", "base_url": url, **FAST, **settings}
    return reward_given(given, "judge").make(RewardContext({}, cache))


def answers(count: int) -> tuple[list[str], list[str], list[str]]:
    """Prompts, and two answers each: ours is the better one on even places."""
    places = range(count)
    ours = [f"ours {i}, quality {1 + (i % 2 == 0)}" for i in places]
    theirs = [f"theirs {i}, quality {1 + (i % 2 == 1)}" for i in places]
    return [f"Question {i}?" for i in places], ours, theirs


def compare(reward: Reward, prompts: list[str], ours: list[str], theirs: list[str]) -> list[Scored]:
    return reward.scored(prompts, ours, columns={OPPONENT_COLUMN: theirs})


def reply(content: object, finish: str = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish, **more}]}


def test_both_orders_are_asked_and_an_honest_judge_is_right(tmp_path: Path) -> None:
    prompts, ours, theirs = answers(8)
    with judging() as server:
        found = compare(judge(server.base_url), prompts, ours, theirs)
        asked = [body["messages"] for body in server.bodies]
    assert [one.score for one in found] == [1.0, 0.0] * 4
    assert found[1].breakdown == {"first": 0.0, "second": 0.0, "flipped": False}
    assert len(asked) == 16
    assert all([message["role"] for message in messages] == ["user"] for messages in asked)
    texts = {messages[0]["content"] for messages in asked}
    assert {
        question(RUBRIC, prompts[3], ours[3], theirs[3]),
        question(RUBRIC, prompts[3], theirs[3], ours[3]),
    } <= texts


def test_a_judge_that_always_takes_the_first_says_nothing() -> None:
    prompts, ours, theirs = answers(6)
    with judging(Biases(says="A")) as server:
        found = compare(judge(server.base_url), prompts, ours, theirs)
    assert [one.score for one in found] == [0.5] * 6
    assert {one.breakdown["flipped"] for one in found} == {True}
    assert found[0].breakdown["first"] == 1.0
    assert found[0].breakdown["second"] == 0.0


def test_equal_answers_are_a_tie_that_is_not_asked_about() -> None:
    with judging(Biases(says="A")) as server:
        [same, other] = compare(judge(server.base_url), ["q", "q"], ["x", "x"], ["x", "y"])
        assert len(server.bodies) == 2
    assert same == Scored(0.5, breakdown={"equal": True})
    assert other.breakdown["flipped"] is True


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A", "A"), (" B\n", "B"), ("[[A]]", "A"), ("**B**", "B"), ('"tie"', "tie"), ("Tie.", "tie"), ("(A)", "A"),
        ("a", None), ("Answer A", None), ("A or B", None), ("AB", None), ("A is better", None), ("", None),
        ("C", None), ("neither", None), ("1", None),
    ],
)  # fmt: skip
def test_a_verdict_is_read_strictly(text: str, verdict: str | None) -> None:
    assert verdict_of(text) == verdict
    read = read_verdict(reply(f"First I think of B.\n\n{text}" if text else text))
    assert read.score == ({"A": 1.0, "B": 0.0, "tie": 0.5}[verdict] if verdict else None)
    assert (read.reason is None) == (verdict is not None)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (reply("A", "length"), "cut before its verdict"),
        (reply(None), "no verdict"),
        (reply(3), "no verdict"),
        ({"choices": []}, "no chat completion"),
        ({"error": "x"}, "no chat completion"),
        ([1], "no chat completion"),
        ({"choices": [{"message": "A"}]}, "no chat completion"),
    ],
)
def test_what_is_no_verdict_has_a_reason(answer: Any, why: str) -> None:
    read = read_verdict(answer)
    assert read.score is None
    assert why in str(read.reason)


def tokens(*entries: tuple[str, dict[str, float]]) -> dict[str, Any]:
    def listed(top: dict[str, float]) -> list[dict[str, Any]]:
        return [{"token": token, "logprob": math.log(chance)} for token, chance in top.items()]

    return {"content": [{"token": token, "logprob": -0.1, "top_logprobs": listed(top)} for token, top in entries]}


def test_log_probabilities_make_a_preference() -> None:
    """By hand: A 0.6 with its variants, B 0.2, tie 0.1 of 0.9 in all: (0.6 + 0.05) / 0.9."""
    top = {"A": 0.5, " A": 0.1, "B": 0.2, "t": 0.1, "The": 0.1}
    soft = read_verdict(reply("A", logprobs=tokens(("A", top), ("<|im_end|>", {"<|im_end|>": 1.0}))))
    assert soft.score == pytest.approx(0.65 / 0.9)
    # Of several tokens it is the verdict's that counts, the last.
    thought = tokens(("B", {"B": 1.0}), (".\n", {"\n": 1.0}), ("A", top))
    assert read_verdict(reply("B.\nA", logprobs=thought)).score == pytest.approx(0.65 / 0.9)


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"content": None}, {"content": ["A"]}, {"content": [{"token": "A"}]}, tokens(("A", {"B": 1.0}))],
)
def test_log_probabilities_that_say_nothing_leave_the_verdict(logprobs: Any) -> None:
    assert read_verdict(reply("A", logprobs=logprobs)).score == 1.0


def test_soft_verdicts_of_both_orders_are_averaged() -> None:
    """By hand: 0.9 shown first, and shown second the other has 0.7."""
    found = both_orders(Scored(0.9), Scored(0.7))
    assert found.score == pytest.approx((0.9 + 0.3) / 2)
    assert found.breakdown["flipped"] is True
    assert both_orders(Scored(0.9), Scored(0.2)).breakdown["flipped"] is False
    assert both_orders(Scored(1.0), Scored(0.5)) == Scored(
        0.75, None, {"first": 1.0, "second": 0.5, "flipped": False}
    )
    lacking = both_orders(Scored(None, "cut"), Scored(0.0))
    assert lacking == Scored(None, "shown first: cut", {"first": None, "second": 1.0})


def test_a_server_with_log_probabilities_is_read_by_them() -> None:
    prompts, ours, theirs = answers(2)
    with judging(Biases(softness=0.2)) as server:
        soft = compare(judge(server.base_url), prompts, ours, theirs)
        hard = compare(judge(server.base_url, logprobs=False), prompts, ours, theirs)
    assert [one.score for one in soft] == pytest.approx([0.8, 0.2])
    assert [one.score for one in hard] == [1.0, 0.0]


def test_a_server_that_refuses_log_probabilities_is_asked_without(capsys: pytest.CaptureFixture[str]) -> None:
    prompts, ours, theirs = answers(4)
    with judging(Biases(softness=0.2), without_logprobs=True) as server:
        found = compare(judge(server.base_url), prompts, ours, theirs)
    assert [one.score for one in found] == [1.0, 0.0, 1.0, 0.0]
    assert capsys.readouterr().err.count("gives no log-probabilities") == 1


def test_faults_of_the_server_cost_no_verdict_and_the_cache_keeps_all(tmp_path: Path) -> None:
    prompts, ours, theirs = answers(20)
    with judging(fault_rate=0.2, faults=("429 with seconds", "500", "half a body", "HTML")) as server:
        found = compare(judge(server.base_url, tmp_path / "c.sqlite"), prompts, ours, theirs)
        asked = len(server.bodies)
        again = compare(judge(server.base_url, tmp_path / "c.sqlite"), prompts, ours, theirs)
        assert len(server.bodies) == asked > 40
        assert sum(server.scored.values()) == 40
        # Asked once more, nothing that was kept counts; what that gives is kept apart.
        judge(server.base_url, tmp_path / "c.sqlite").again()
        compare(judge(server.base_url, tmp_path / "c.sqlite").again(), prompts, ours, theirs)
        compare(judge(server.base_url, tmp_path / "c.sqlite").again(), prompts, ours, theirs)
        assert sum(server.scored.values()) == 80
    assert found == again
    assert [one.score for one in found] == [1.0, 0.0] * 10


def test_the_key_is_sent_and_stands_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    prompts, ours, theirs = answers(3)
    with judging(Biases(garbled=0.4), key="sk-very-secret") as server:
        made = judge(server.base_url, tmp_path / "c.sqlite", api_key_variable="JUDGE_KEY")
        found = compare(made, prompts, ours, theirs)
        with pytest.raises(TrimtabError, match="No key was sent") as refused:
            compare(judge(server.base_url), prompts, ours, theirs)
    everything = [repr(made), made.signature, repr(found), str(refused.value)]
    assert not any("secret" in text for text in everything)
    assert b"secret" not in (tmp_path / "c.sqlite").read_bytes()


def test_the_question_shows_texts_as_they_are() -> None:
    """Braces in an answer are no place of the rubric's, and a conversation has its roles."""
    turns = (Message("system", "Be brief."), Message("user", "Hi {first}"))
    assert question("P{prompt}|F{first}|S{second}", turns, "{second}", "b{prompt}") == (
        "Psystem: Be brief.\n\nuser: Hi {first}|F{second}|Sb{prompt}"
    )
    assert question("{prompt}{first}{second}", (Message("user", "u"),), "a", "b") == "uab"


def test_a_rubric_is_checked(tmp_path: Path) -> None:
    given = {"kind": "pairwise", "model": "m", "base_url": "http://127.0.0.1:1"}
    with pytest.raises(TrimtabError, match=r"lacks \{second\}"):
        reward_given({**given, "rubric": "{prompt} {first}"}, "judge")
    with pytest.raises(TrimtabError, match="no such file"):
        reward_given({**given, "rubric": str(tmp_path / "no.txt")}, "judge")
    (tmp_path / "own.txt").write_text("Which? {prompt} {first} {second}")
    own = reward_given({**given, "rubric": str(tmp_path / "own.txt")}, "judge").make(RewardContext({}))
    plain = reward_given(given, "judge").make(RewardContext({}))
    assert own.signature != plain.signature
    (tmp_path / "own.txt").write_text("Which? {prompt} {first}")
    with pytest.raises(TrimtabError, match=r"lacks \{second\}"):
        reward_given({**given, "rubric": str(tmp_path / "own.txt")}, "judge").make(RewardContext({}))


def test_names_and_files_of_settings(tmp_path: Path) -> None:
    named = reward_named("pairwise:org/model@http://h:1/v1")
    assert isinstance(named, PairwiseSettings)
    assert (named.model, named.base_url, named.describe()) == ("org/model", "http://h:1/v1", "org/model, in pairs")
    file = tmp_path / "judge.yaml"
    file.write_text("kind: pairwise\nmodel: m\nbase_url: http://h:1/v1\nrequest: {seed: 3, temperature: null}\n")
    assert reward_named(str(file)) == reward_given(
        {
            "kind": "pairwise",
            "model": "m",
            "base_url": "http://h:1/v1",
            "request": {"seed": 3, "temperature": None},
        },
        "judge",
    )
    for text, why in [
        ("[1]", "expected settings"),
        ("kind: pairwise", "needs base_url and model"),
        ("a: 'b", "line"),
    ]:
        file.write_text(text)
        with pytest.raises(TrimtabError, match=why):
            reward_named(str(file))
    with pytest.raises(TrimtabError, match="no such file of settings"):
        reward_named(str(tmp_path / "none.yaml"))
    with pytest.raises(TrimtabError, match="write it as pairwise:MODEL@"):
        reward_named("pairwise:model")


def test_own_fields_of_a_request() -> None:
    prompts, ours, theirs = answers(1)
    request = {"max_tokens": None, "max_completion_tokens": 9, "chat_template_kwargs": {"enable_thinking": False}}
    with judging() as server:
        compare(judge(server.base_url, request=request), prompts, ours, theirs)
        body = server.bodies[0]
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == 9
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["model"], body["temperature"], body["logprobs"], body["top_logprobs"]) == ("j", 0.0, True, 5)


@pytest.mark.parametrize("request_fields", [{"seed": float("nan")}, {"model": "other"}, {"stream": True}])
def test_fields_that_no_request_may_have(request_fields: dict[str, Any]) -> None:
    with pytest.raises(TrimtabError, match=r"JSON has no word|is not for it to say"):
        judge("http://127.0.0.1:1", request=request_fields)


def test_it_is_no_reward_to_train_on() -> None:
    from trimtab.methods.grpo_settings import GRPOSettings

    given = {"kind": "pairwise", "model": "m", "base_url": "http://h:1"}
    with pytest.raises(ValueError, match="it is a judge, and no reward to train on"):
        GRPOSettings.model_validate({"rewards": [given]})
    with pytest.raises(TrimtabError, match="several such judges are a jury"):
        reward_given({"kind": "ensemble", "members": ["pairwise:m@http://h:1", "gold"]}, "judge")
    with pytest.raises(TrimtabError, match="there is no opponent's"):
        judge("http://127.0.0.1:1").scored(["q"], ["a"], columns={})


# ---- a jury


def test_a_jury_is_the_mean_of_its_members() -> None:
    prompts, ours, theirs = answers(4)
    with judging() as honest, judging(Biases(says="A")) as first:
        members = [
            {"kind": "pairwise", "model": "honest", "base_url": honest.base_url},
            {"kind": "pairwise", "model": "first", "base_url": first.base_url},
        ]
        jury = reward_given({"kind": "jury", "members": members}, "judge")
        found = compare(jury.make(RewardContext({})), prompts, ours, theirs)
        first.biases = Biases(says="neither of them")
        lacking = compare(jury.make(RewardContext({})), prompts, ours, theirs)
    assert jury.describe() == "a jury of honest, first, in pairs"
    assert jury.calls == 4, "what a plan counts: of each member both orders"
    assert [one.score for one in found] == [0.75, 0.25] * 2
    assert found[0].breakdown["members"] == {"honest": 1.0, "first": 0.5}
    assert (found[0].breakdown["first"], found[0].breakdown["second"]) == (1.0, 0.5)
    assert found[0].breakdown["flipped"] == 0.5
    assert lacking[0].score is None
    assert "first: shown first: no verdict" in str(lacking[0].reason)
    assert lacking[0].breakdown["members"] == {"honest": 1.0, "first": None}


def test_two_members_of_one_name_are_refused() -> None:
    member = {"kind": "pairwise", "model": "m", "base_url": "http://h:1"}
    with pytest.raises(TrimtabError, match="two judges are called m"):
        reward_given({"kind": "jury", "members": [member, member]}, "judge")
    with pytest.raises(TrimtabError, match="at least 2"):
        reward_given({"kind": "jury", "members": [member]}, "judge")
