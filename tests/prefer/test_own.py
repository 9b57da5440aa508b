"""A prompt of one's own, answered by two models that are pretended here, and by two real ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefer.made import Running, item, page
from trimtab.chat.history import History
from trimtab.chat.settings import ChatSettings
from trimtab.chat.speaker import Speaker
from trimtab.data.vote_file import read_votes
from trimtab.errors import TrimtabError
from trimtab.prefer.ballot import Ballot, number_of, second_left
from trimtab.prefer.own import WAITING, FullError, OwnPrompts


class Pretended:
    """Answers with its name, once it may."""

    def __init__(self, name: str, may: threading.Event) -> None:
        self.name, self.may, self.history, self.seeds = name, may, History(), list[int]()

    def restart(self, seed: int) -> None:
        self.seeds.append(seed)

    def answer(self, text: str, write: Callable[[str], None]) -> Any:
        if text == "too long":
            raise TrimtabError("the prompt leaves no room")
        assert not self.history.turns, "a prompt is asked by itself"
        self.history.add(text, "said")
        while not self.may.wait(0.01):
            write("a piece")
        return SimpleNamespace(text=f"{self.name} to {text}")


class Asking:
    """A page with two pretended models."""

    def __init__(self, votes: Path) -> None:
        self.may = threading.Event()
        self.may.set()
        loads: dict[str, Any] = {name: partial(Pretended, name, self.may) for name in ("sft", "dpo", "ppo")}
        self.own = OwnPrompts(loads, lambda one: self.ballot.add(one))
        self.page = page(votes, [item(0)], own=self.own)
        self.running: Running = self.page.__enter__()
        self.ballot: Ballot = self.running.ballot

    def close(self) -> None:
        self.own.close()
        self.page.__exit__(None, None, None)

    def answered(self, person: str, prompt: str, ask_id: str) -> Any:
        state = self.running.post("/api/own", person=person, ask_id=ask_id, prompt=prompt)
        for _ in range(500):
            if state["stage"] in ("done", "failed"):
                return state
            time.sleep(0.01)
            state = self.running.post("/api/own/state", person=person, ask_id=ask_id)
        raise AssertionError(state)


@pytest.fixture
def asking(tmp_path: Path) -> Any:
    made = Asking(tmp_path / "votes.sqlite")
    yield made
    made.close()


def test_a_vote_on_ones_own_prompt_is_marked_as_not_random(asking: Asking) -> None:
    state = asking.answered("ada", "*Hello*", "ask-00001")
    shown = state["item"]
    assert shown["prompt"]["turns"][0]["raw"] == "*Hello*"
    asking.running.post(
        "/api/votes", vote_id="own-vote-1", item=shown["id"], person="ada", repeated=False, verdict="right"
    )
    [vote] = read_votes(asking.running.votes)
    assert (vote.item.purpose, vote.item.prompt, vote.verdict) == ("own", "*Hello*", "right")
    assert vote.swapped == second_left("ada", shown["id"])
    left = vote.item.second_completion if vote.swapped else vote.item.first_completion
    assert shown["left"]["raw"] == left
    assert vote.item.first_completion == f"{vote.item.first} to *Hello*"
    assert vote.item.first != vote.item.second
    again = asking.running.post("/api/own", person="ada", ask_id="ask-00001", prompt="*Hello*")
    assert again["item"] == shown, "sent again, as after a reload"


def test_every_two_models_and_both_sides_are_drawn(asking: Asking) -> None:
    items = []
    for number in range(24):
        asking.answered("ada", f"p{number}", f"ask-1{number:04}")
        state = asking.own.state(f"ask-1{number:04}", "ada")
        assert state is not None
        items.append(state[0].item)
    assert {(one.first, one.second) for one in items if one} == {("sft", "dpo"), ("sft", "ppo"), ("dpo", "ppo")}
    assert len({second_left("ada", one.id) for one in items if one}) == 2


def test_prompts_wait_in_a_row_of_bounded_length(asking: Asking) -> None:
    asking.may.clear()
    for number in range(WAITING):
        asking.own.ask(f"ask-2{number:04}", f"person {number}", "x")
    with pytest.raises(FullError):
        asking.own.ask("ask-another", "late", "x")
    state = asking.running.post("/api/own/state", person="person 7", ask_id="ask-20007")
    assert (state["stage"], state["ahead"]) == ("waiting", 7)
    with asking.running.client() as client:
        theirs = {"person": "eve", "ask_id": "ask-20007"}
        assert client.post("/api/own/state", json=theirs).status_code == 404
        own = {"person": "late", "ask_id": "ask-another", "prompt": "x"}
        assert client.post("/api/own", json=own).status_code == 503
    started = time.monotonic()
    asking.own.close()
    assert time.monotonic() - started < 2, "an answer that is being written ends with the page"


def test_one_prompt_of_a_person_at_a_time(asking: Asking) -> None:
    asking.may.clear()
    asking.own.ask("ask-first1", "ada", "x")
    with pytest.raises(FullError):
        asking.own.ask("ask-second", "ada", "y")


def test_what_goes_wrong_is_told_and_the_next_is_answered(asking: Asking) -> None:
    state = asking.answered("ada", "too long", "ask-30001")
    assert (state["stage"], state["error"]) == ("failed", "the prompt leaves no room")
    assert asking.answered("ada", "short", "ask-30002")["stage"] == "done"


def test_two_real_models_answer_in_a_thread(tiny_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    settings = ChatSettings(max_new_tokens=8)
    loads: dict[str, Callable[[], Speaker]] = {
        name: partial(Speaker, name, str(tiny_model_dir(name, seed)), settings) for seed, name in enumerate("ab")
    }
    kept: list[Any] = []
    own = OwnPrompts(loads, kept.append)
    own.ask("ask-40001", "ada", "the cat sat")
    for _ in range(3000):
        state = own.state("ask-40001", "ada")
        assert state is not None
        if state[0].stage in ("done", "failed"):
            break
        time.sleep(0.02)
    own.close()
    assert state[0].error == ""
    assert [one.first for one in kept] == ["a"]
    alone = Speaker("a", str(tmp_path / "a"), settings)
    alone.restart(number_of("seed", "ask-40001"))
    assert kept[0].first_completion == alone.answer("the cat sat", lambda _: None).text
