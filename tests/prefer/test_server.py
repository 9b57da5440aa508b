"""The page's server over real HTTP: what it gives, what it keeps, and whom it lets in."""

from __future__ import annotations

import json
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefer.made import Running, item, page
from trimtab.data.vote_file import read_votes
from trimtab.errors import TrimtabError
from trimtab.prefer.ballot import second_left
from trimtab.prefer.bodies import LARGEST
from trimtab.prefer.serve import PORT, Place

ID = "0123456789abcdef"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    items = [item(i) for i in range(30)]
    with page(tmp_path_factory.mktemp("page") / "votes.sqlite", items) as served:
        yield served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Open to others: a token is needed."""
    with page(tmp_path_factory.mktemp("shared") / "votes.sqlite", [item(0)], host="0.0.0.0") as served:
        yield served


def vote(person: str, shown: Any, verdict: str = "left", vote_id: str = ID, **more: Any) -> dict[str, Any]:
    body = {"vote_id": vote_id, "item": shown["id"], "person": person, "repeated": shown["repeated"]}
    return body | {"verdict": verdict, "milliseconds": 1200} | more


def test_items_are_blind_and_votes_are_kept_with_their_sides(running: Running) -> None:
    given = running.post("/api/items", person="ada", count=8)
    assert len(given["items"]) == 8
    assert (given["voted"], given["left"], given["last"]) == (0, 30, None)
    written = json.dumps(given)
    assert "sft" not in written
    assert "dpo" not in written
    assert "swapped" not in written
    for number, shown in enumerate(given["items"]):
        swapped = second_left("ada", shown["id"])
        assert ("second" if swapped else "first") in shown["left"]["raw"]
        assert ("first" if swapped else "second") in shown["right"]["raw"]
        note = "why not\n" if number == 0 else ""
        kept = running.post(
            "/api/votes", **vote("ada", shown, "left", f"vote-of-ada-{number}", reasons=["clearer"], note=note)
        )
        assert kept["kept"] == f"vote-of-ada-{number}"
        assert kept["voted"] == number + 1
    votes = [cast for cast in read_votes(running.votes) if cast.person == "ada"]
    assert [cast.item.id for cast in votes] == [shown["id"] for shown in given["items"]]
    assert [cast.swapped for cast in votes] == [second_left("ada", cast.item.id) for cast in votes]
    assert {cast.swapped for cast in votes} == {True, False}
    assert (votes[0].reasons, votes[0].note, votes[0].milliseconds) == ('["clearer"]', "why not\n", 1200)


def test_a_vote_that_is_sent_twice_or_from_another_tab_is_one(running: Running) -> None:
    shown = running.post("/api/items", person="grace", count=1)["items"][0]
    first = vote("grace", shown, "left", "sent-once-1")
    assert running.post("/api/votes", **first)["kept"] == "sent-once-1"
    assert running.post("/api/votes", **first) == running.post("/api/votes", **first)
    other = running.post("/api/votes", **vote("grace", shown, "right", "another-tab"))
    assert other["kept"] == "sent-once-1"
    assert [cast.verdict for cast in read_votes(running.votes) if cast.person == "grace"] == ["left"]


def test_undo_gives_the_item_back_as_it_was_shown_and_can_be_sent_twice(running: Running) -> None:
    shown = running.post("/api/items", person="mary", count=1)["items"][0]
    kept = running.post("/api/votes", **vote("mary", shown, "both good", "to-be-undone"))
    assert kept["last"]["vote_id"] == "to-be-undone"
    theirs = running.post("/api/undo", person="eve", vote_id="to-be-undone", undo_id="undo-0003")
    assert theirs["undone"] is None, "another's vote"
    undo = {"person": "mary", "vote_id": "to-be-undone", "undo_id": "undo-0001"}
    undone = running.post("/api/undo", **undo)
    assert undone["undone"] == shown
    assert (undone["voted"], undone["last"]) == (0, None)
    assert running.post("/api/undo", **undo) == undone
    again = running.post("/api/undo", **undo | {"undo_id": "undo-0002"})
    assert again["undone"] is None, "it does not stand"
    assert running.post("/api/votes", **vote("mary", shown, "skip", "judged-anew"))["voted"] == 1


def test_one_person_is_one_however_the_name_is_typed(running: Running) -> None:
    shown = running.post("/api/items", person="  Zoe\u0301  K ", count=1)["items"][0]
    running.post("/api/votes", **vote("Zo\u00e9 K", shown, vote_id="zoe-votes-1"))
    assert running.post("/api/items", person="Zoe\u0301 K", count=0)["voted"] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"person": ""}, "name has letters"),
        ({"person": "a\u202eb"}, "nothing that cannot be seen"),
        ({"person": "x" * 61}, "at most 60"),
        ({"vote_id": "short"}, "pattern"),
        ({"vote_id": "x'; DROP TABLE votes"}, "pattern"),
        ({"verdict": "undo"}, "verdict"),
        ({"reasons": ["because"]}, "reasons"),
        ({"note": "n" * 2001}, "at most 2000"),
        ({"milliseconds": -1}, "milliseconds"),
        ({"milliseconds": 10**9}, "milliseconds"),
        ({"repeated": None}, "repeated"),
        ({"swapped": True}, "swapped"),
    ],
)
def test_what_is_no_vote_is_refused_in_a_line(running: Running, body: dict[str, Any], words: str) -> None:
    shown = {"id": "item-0000", "repeated": False}
    before = len(read_votes(running.votes))
    with running.client() as client:
        answer = client.post("/api/votes", json=vote("noone", shown) | body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert len(read_votes(running.votes)) == before


def test_unknown_items_large_bodies_and_other_addresses(running: Running) -> None:
    with running.client() as client:
        unknown = client.post(
            "/api/votes", json=vote("ada", {"id": "item-9999", "repeated": False}, vote_id="unknown-item")
        )
        assert (unknown.status_code, unknown.json()["error"]) == (404, "this item is not served here")
        large = client.post(
            "/api/votes", content=b" " * (LARGEST + 1), headers={"content-type": "application/json"}
        )
        assert large.status_code == 413
        chunks = (b" " * 2**14 for _ in range(2**4))
        assert (
            client.post("/api/votes", content=chunks, headers={"content-type": "application/json"}).status_code
            == 413
        )
        assert (
            client.post("/api/votes", content=b"{", headers={"content-type": "application/json"}).status_code == 400
        )
        assert client.get("/static/../app.py").status_code == 404
        assert client.get("/static/judge.html.j2").status_code == 404
        assert client.get("/side-by-side").status_code == 404, "there are no models"
        assert client.put("/api/votes").status_code == 405


@pytest.mark.parametrize("path", ["/", "/numbers", "/static/judge.js", "/nowhere"])
def test_every_answer_keeps_the_page_to_itself(running: Running, path: str) -> None:
    with running.client() as client:
        headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers


def test_the_page_names_nothing_outside_and_has_no_script_in_it(running: Running) -> None:
    with running.client() as client:
        text = client.get("/").text
        for name in set(re.findall(r'(?:src|href)="([^"]+)"', text)):
            assert name.startswith("/"), name
            assert client.get(name).status_code == 200, name
        for script in re.findall(r"<script[^>]*>", text):
            assert "src=" in script
        assert "style=" not in text
        assert " onclick" not in text
        modules = {"judge.js", "own.js"}
        for name in modules | {"api.js", "ballot.js", "outbox.js", "person.js", "show.js", "store.js"}:
            code = client.get(f"/static/{name}")
            assert code.headers["content-type"].startswith("text/javascript")
            assert set(re.findall(r'from "\./([^"]+)"', code.text)) <= {
                "api.js", "ballot.js", "outbox.js", "person.js", "show.js", "store.js",
            }  # fmt: skip
            assert "http://" not in code.text
            assert "https://" not in code.text


FOREIGN = [
    ({"host": "evil.example"}, 421),  # another site's name that leads here
    ({"host": "127.0.0.1.evil.example"}, 421),
    ({"host": "192.168.7.7"}, 421),
    ({"host": ""}, 421),
    ({"origin": "http://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": "http://127.0.0.1:1"}, 403),  # another port is another site
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"sec-fetch-site": "same-site"}, 403),
    ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),  # a form of another site
    ({"content-type": "text/plain"}, 415),  # what a form may send
]


@pytest.mark.parametrize(("headers", "status"), FOREIGN)
def test_other_sites_change_nothing(running: Running, headers: dict[str, str], status: int) -> None:
    shown = {"id": "item-0001", "repeated": False}
    body = json.dumps(vote("victim", shown, vote_id="cross-site-vote"))
    with running.client() as client:
        sent = {"content-type": "application/json", **headers}
        assert client.post("/api/votes", content=body, headers=sent).status_code == status
    assert not [cast for cast in read_votes(running.votes) if cast.person == "victim"]


def test_other_sites_read_nothing_but_may_link(running: Running) -> None:
    foreign = {"sec-fetch-site": "cross-site"}
    with running.client() as client:
        assert client.get("/", headers=foreign | {"sec-fetch-mode": "no-cors"}).status_code == 403
        assert client.get("/", headers=foreign | {"sec-fetch-mode": "navigate"}).status_code == 200
        own = {"origin": running.address, "sec-fetch-site": "same-origin"}
        assert client.post("/api/items", json={"person": "ada"}, headers=own).status_code == 200
        by_name = running.address.replace("127.0.0.1", "localhost")
        named = {"host": by_name.removeprefix("http://"), "origin": by_name}
        assert client.post("/api/items", json={"person": "ada"}, headers=named).status_code == 200


PATHS = ["/", "/numbers", "/static/page.css", "/static/judge.js", "/nowhere"]


def test_without_the_token_nothing_is_served(shared: Running) -> None:
    assert shared.served.tokens is not None
    right = shared.served.tokens.judge
    with shared.client() as client:
        for wrong in ("", "?token=", "?token=wrong", f"?token={right[:-1]}", f"?token={right}x", "?token=\u00e9"):
            for path in PATHS:
                answer = client.get(path + wrong)
                assert (answer.status_code, "set-cookie" in answer.headers) == (401, False), path + wrong
                assert "Which answer" not in answer.text
        assert client.post("/api/items", json={"person": "ada"}).status_code == 401
        assert client.get("/", headers={"cookie": f"{shared.served.cookie}=wrong"}).status_code == 401


def test_the_token_comes_once_and_then_by_a_cookie(shared: Running) -> None:
    assert shared.served.tokens is not None
    with shared.client() as client:
        first = client.get(f"/?token={shared.served.tokens.judge}")
        assert first.status_code == 200
        cookie = first.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Path=/" in cookie
        assert client.get("/static/judge.js").status_code == 200
        assert client.post("/api/items", json={"person": "ada"}).json()["left"] == 1
        assert client.get("/numbers").status_code == 403, "it would tell which method is which"
        assert 'href="/numbers"' not in client.get("/").text


def test_the_owner_sees_the_numbers(shared: Running) -> None:
    assert shared.served.tokens is not None
    shown = {"id": "item-0000", "repeated": False}
    with shared.client() as client:
        assert client.get(f"/numbers?token={shared.served.tokens.owner}").status_code == 200
        assert 'href="/numbers"' in client.get("/").text
        client.post("/api/votes", json=vote("<b>ada</b>", shown, vote_id="for-numbers"))
        for _ in range(60):
            text = client.get("/numbers", timeout=30).text
            if "is being worked out" not in text:
                break
    assert "Win rates by people" in text
    assert '<td dir="auto">&lt;b&gt;ada&lt;/b&gt;</td><td dir="auto">1</td><td dir="auto">0</td>' in text


def test_open_to_others_it_answers_to_addresses_and_its_own_name_only(shared: Running) -> None:
    assert shared.served.tokens is not None
    path = f"/?token={shared.served.tokens.judge}"
    with shared.client() as client:
        for host in ("192.168.7.7:8017", "10.0.0.1", "[fe80::1]:80", "localhost", socket.gethostname()):
            assert client.get(path, headers={"host": host}).status_code == 200, host
        for host in ("evil.example", "1.2.3.4.evil.example", "0x7f.1.evil"):
            assert client.get(path, headers={"host": host}).status_code == 421, host


def test_tokens_outlive_a_restart_and_are_for_one_user(tmp_path: Path) -> None:
    votes = tmp_path / "votes.sqlite"
    seen = []
    for _ in range(2):
        with page(votes, [item(0)], host="0.0.0.0") as served:
            seen.append(served.served.tokens)
    assert seen[0] == seen[1]
    assert seen[0] is not None
    assert len({seen[0].judge, seen[0].owner}) == 2
    file = tmp_path / "votes.sqlite.tokens"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("{}")
    with pytest.raises(TrimtabError, match="holds no tokens"), page(votes, [item(0)], host="0.0.0.0"):
        pass


def test_the_next_free_port_or_a_clear_message() -> None:
    taken = Place("127.0.0.1", None)
    try:
        assert taken.port >= PORT
        beside = Place("127.0.0.1", None)
        beside.socket.close()
        assert beside.port > taken.port
        with pytest.raises(TrimtabError, match=f"--port {taken.port} is taken"):
            Place("127.0.0.1", taken.port)
    finally:
        taken.socket.close()
    with pytest.raises(TrimtabError, match=r"--host no\.such\.host\.invalid"):
        Place("no.such.host.invalid", 0)


def test_an_error_of_ours_is_told_without_its_insides(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(running.ballot, "progress", broken)
    with running.client() as client:
        answer = client.post("/api/items", json={"person": "ada", "count": 0})
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_a_connection_that_says_no_host_twice_is_refused(running: Running) -> None:
    host = httpx.URL(running.address)
    with socket.create_connection((host.host, host.port), timeout=5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert b" 200 " not in raw.recv(200)
