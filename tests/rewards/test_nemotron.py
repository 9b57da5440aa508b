"""Nemotron's endpoint: which answers are scores, where requests go, and where the key does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from servers.nemotron_server import score_of, serving
from trimtab.data.records import Message
from trimtab.errors import TrimtabError
from trimtab.rewards import nemotron
from trimtab.rewards.nemotron import KEY_VARIABLE, URL, URL_VARIABLE, NemotronReward

HELPSTEER = "helpfulness:1.6171875,correctness:1.6484375,coherence:3.3125,complexity:0.546875,verbosity:0.515625"
LOCAL = "http://127.0.0.1:1/v1"


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(URL_VARIABLE, raising=False)


def answer(content: Any, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}}
    return {"choices": [choice | ({"logprobs": {"content": logprobs}} if logprobs is not None else {})]}


def attributes(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": value} for token, value in pairs]


@pytest.mark.parametrize(
    ("found", "attribute", "score"),
    [
        (answer("reward:-25.625"), None, -25.625),
        (answer("reward: 0.0\n"), None, 0.0),
        (answer("reward:-1.5e-1"), None, -0.15),
        (answer("-25.625"), None, -25.625),
        (answer(-3), None, -3.0),
        (answer(HELPSTEER), "correctness", 1.6484375),
        (answer("quality:2"), None, 2.0),
        (answer("reward:1,helpfulness:2"), None, 1.0),
        (answer(None, attributes(("helpfulness", 1.25), ("correctness", 0.43))), "helpfulness", 1.25),
        (answer("", attributes(("reward", -7.5))), None, -7.5),
        (answer("", attributes(("-12.375", -0.1))), None, -12.375),
        (answer(None, attributes(("mine", 4.0))), "mine", 4.0),
    ],
)
def test_shapes_of_a_score(found: Any, attribute: str | None, score: float) -> None:
    assert NemotronReward(base_url=LOCAL, attribute=attribute).read(found).score == score


@pytest.mark.parametrize(
    "found",
    [
        answer("reward:nan"),
        answer("reward:-inf"),
        answer("reward:1e999"),
        answer("NaN"),
        answer("reward:"),
        answer("reward:1.2.3"),
        answer("I would give it a reward: 5"),
        answer("5 out of 10"),
        answer("Sure!", attributes(("Sure", -0.01), ("!", -0.2))),
        answer("Sure", attributes(("Sure", -0.01))),
        answer(None, attributes(("reward", None))),
        answer(None, attributes(("reward", "high"))),
        answer(None, attributes(("reward", float("nan")))),
        answer(None, []),
        answer(None),
        answer(""),
        answer(True),
        answer(["reward:1"]),
        {"choices": []},
        {"choices": [{"text": "reward:1"}]},
        {"error": "overloaded"},
        [],
        None,
        3.0,
    ],
)
def test_anything_else_is_missing_with_a_reason(found: Any) -> None:
    scored = NemotronReward(base_url=LOCAL).read(found)
    assert scored.score is None
    assert scored.reason


@given(st.floats(-1e18, 1e18))
def test_every_finite_number_comes_back_as_it_is(value: float) -> None:
    reward = NemotronReward(base_url=LOCAL)
    assert reward.read(answer(f"reward:{value!r}")).score == value
    assert reward.read(answer(repr(value))).score == value


@given(st.text(max_size=12))
@example("0\x1f")
def test_text_is_a_score_only_where_python_reads_a_number_in_its_place(text: str) -> None:
    """Whatever the parser takes, float() takes too, and gives the same."""
    scored = NemotronReward(base_url=LOCAL).read(answer(f"reward:{text}"))
    if scored.score is not None and "," not in text:
        assert scored.score == float(text.strip())


def test_several_attributes_want_one_named() -> None:
    """All are kept as the breakdown; without a name, or with a wrong one, no call would give a score."""
    scored = NemotronReward(base_url=LOCAL, attribute="coherence").read(answer(HELPSTEER))
    assert scored.score == 3.3125
    assert dict(scored.breakdown)["verbosity"] == 0.515625
    assert len(scored.breakdown) == 5
    for wrong in (None, "helpfullness"):
        with pytest.raises(TrimtabError, match=r"rates helpfulness, correctness, .*the reward's 'attribute'"):
            NemotronReward(base_url=LOCAL, attribute=wrong).read(answer(HELPSTEER))


def test_the_request_is_the_conversation() -> None:
    talk = (Message("system", "Be short."), Message("user", "Lisbon?"))
    with serving() as server:
        found = NemotronReward("rm", base_url=server.address + "/v1").score([talk], ["Yes."])
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Lisbon?"},
        {"role": "assistant", "content": "Yes."},
    ]
    assert server.bodies == [{"model": "rm", "messages": messages, "path": "/v1/chat/completions"}]
    assert found == [score_of(messages)]


# ---- addresses and keys


def key_sent(reward: NemotronReward) -> str | None:
    return reward.endpoint.client().headers.get("authorization")


def test_nvidias_address_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrimtabError, match=r"no key\. Put it into the environment variable NVIDIA_API_KEY"):
        NemotronReward()
    monkeypatch.setenv(KEY_VARIABLE, " test-key-1\n")
    reward = NemotronReward()
    assert (reward.endpoint.url, key_sent(reward)) == (URL, "Bearer test-key-1")


def test_the_key_goes_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    """To NVIDIA, to an address from the environment, and where its variable is named; nowhere else."""
    monkeypatch.setenv(KEY_VARIABLE, "test-key-1")
    monkeypatch.setenv("OTHER", "other-1")
    monkeypatch.setenv(URL_VARIABLE, "http://my-nim:8000/v1/")
    assert NemotronReward().endpoint.url == "http://my-nim:8000/v1"
    assert key_sent(NemotronReward()) == "Bearer test-key-1"
    assert key_sent(NemotronReward(base_url=URL)) == "Bearer test-key-1"
    for url in ("http://elsewhere/v1", "https://nvidia.com.elsewhere/v1", "http://integrate.api.nvidia.com/v1"):
        assert key_sent(NemotronReward(base_url=url)) is None
    assert key_sent(NemotronReward(base_url="http://elsewhere", api_key_variable="OTHER")) == "Bearer other-1"
    with pytest.raises(TrimtabError, match="environment variable ABSENT"):
        NemotronReward(base_url="http://elsewhere", api_key_variable="ABSENT")


@pytest.mark.parametrize("url", ["https://me:pass-1@host/v1", "https://host/v1?key=pass-1", "https://host/#pass-1"])
def test_an_address_with_a_secret_is_refused_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, url)
    with pytest.raises(TrimtabError, match="NVIDIA_API_BASE_URL holds more than an address") as found:
        NemotronReward()
    assert "pass-1" not in str(found.value)


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "test-key-1\nx-1")
    with pytest.raises(TrimtabError, match="characters that no key has") as found:
        NemotronReward()
    assert "test-key-1" not in str(found.value)


def test_the_signature_says_what_scores_and_not_how_it_is_asked() -> None:
    def signature(**settings: Any) -> str:
        return NemotronReward(**({"model": "m", "base_url": LOCAL} | settings)).signature

    assert signature() == signature(name="n", concurrency=2, timeout=1.0)
    others = [{"model": "o"}, {"base_url": "http://h"}, {"attribute": "coherence"}]
    assert len({signature(), *(signature(**other) for other in others)}) == 4
    assert json.dumps(signature())
    assert str(nemotron.VERSION) in signature().split("|")


def test_what_a_server_may_name_is_limited() -> None:
    """In one answer, by length, and over all of them: each name would be a metric of the log."""
    reward = NemotronReward(base_url=LOCAL, attribute="reward")
    many = ",".join(f"a{i}:1" for i in range(33))
    assert reward.read(answer(many)).reason == "33 attributes, or a name longer than 64 characters"
    assert reward.read(answer(f"reward:1,{'x' * 65}:2")).score is None
    assert reward.read(answer("reward:1,reward:2")).reason == "an attribute twice in 'reward:1,reward:2'"
    found = [reward.read(answer(f"reward:{i},other{i}:2")) for i in range(100)]
    assert [one.score for one in found] == list(range(100))
    assert len({name for one in found for name in one.breakdown}) == 32
    assert all("reward" in one.breakdown for one in found)
    assert reward.read({"choices": answer("reward:1")["choices"] * 2}).score is None
