"""vLLM's pooling protocol: what is asked, and how the answer is read. A real server's test is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servers.nemotron_server import score_of, serving
from trimtab.data.records import Message
from trimtab.errors import TrimtabError
from trimtab.rewards.cache import ScoreCache
from trimtab.rewards.vllm_pooling import VLLMPoolingReward

TALK = (Message("user", "the cat?"), Message("assistant", "sat"), Message("user", "why?"))


def test_asks_for_the_classifiers_logit_once_for_each_distinct_completion(tmp_path: Path) -> None:
    """Three rows, two of them the same: two requests. The body is the protocol's, field for field."""
    cache = ScoreCache(tmp_path / "scores.sqlite")
    with serving() as server:
        reward = VLLMPoolingReward(f"{server.address}/v1/", "skywork", cache=cache, concurrency=1)
        scores = reward.score(["Hi", TALK, "Hi"], ["Ho", "mice", "Ho"])
    short = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    long = [{"role": m.role, "content": m.content} for m in TALK] + [{"role": "assistant", "content": "mice"}]
    assert scores == [score_of(short), score_of(long), score_of(short)]
    fixed = {"model": "skywork", "task": "classify", "use_activation": False, "add_generation_prompt": False}
    assert server.bodies == [fixed | {"messages": m, "path": "/pooling"} for m in (short, long)]
    assert [p.name for p in tmp_path.iterdir()] == ["scores.sqlite"], "no journal beside it"
    assert cache.count() == 2
    assert reward.score([TALK], ["mice"]) == [score_of(long)], "from the cache: the server is gone"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"data": [{"data": [0.1, 0.9]}]}, "2 values where one score was expected"),
        ({"data": [{"data": [[0.1], [0.9]]}]}, "2 values where one score was expected"),
        ({"data": [{"data": [[0.1]]}]}, "1 values where one score was expected"),
        ({"data": [{"data": [True]}]}, "1 values where one score was expected"),
        ({"data": [{"data": "AAAA"}]}, "str where one score was expected"),
        ({"data": []}, "no pooling answer"),
        ({"error": "x"}, "no pooling answer"),
        ([], "no pooling answer"),
        ({"data": [{"data": [float("nan")]}]}, "gave nan"),
    ],
)
def test_what_is_no_score(answer: Any, reason: str) -> None:
    found = VLLMPoolingReward("http://host:1", "rm").read(answer)
    assert found.score is None
    assert reason in str(found.reason)


def test_the_signature_says_where_and_what() -> None:
    def signature(url: str, model: str) -> str:
        return VLLMPoolingReward(url, model).signature

    assert signature("http://a:1/v1", "m") == signature("http://a:1/", "m")
    assert len({signature("http://a:1", "m"), signature("http://b:1", "m"), signature("http://a:1", "n")}) == 3


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "", "http://"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(TrimtabError, match="base_url is no address"):
        VLLMPoolingReward(url, "m")
