"""Who is shown what, and votes kept: whatever is sent, again or at once, from however many servers."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prefer.cast import item, vote_all
from trimtab.data.vote_file import CastVote, Verdict, connect, read_votes
from trimtab.errors import TrimtabError
from trimtab.prefer.ballot import REPEAT_AFTER, REPEAT_EVERY, WINDOW, Ballot, NewVote, second_left

ITEMS = [item(i) for i in range(80)]
SAID = ("left", "right", "both good", "both bad", "skip")


def test_a_vote_is_for_the_answer_that_stood_there(tmp_path: Path) -> None:
    """Whichever side the first answer stood on, who prefers it gives it 1; also where an item comes again."""
    ballot = Ballot(tmp_path / "votes.sqlite", ITEMS)
    sides = set()
    while shown := ballot.next_for("ann"):
        (one,) = shown
        verdict: Verdict = "left" if one.left == one.item.first_completion else "right"
        vote = ballot.record(NewVote(f"{one.item.id} {one.repeated}", one.item.id, "ann", one.repeated, verdict))
        assert (vote.share, vote.swapped, vote.item) == (1.0, one.swapped, one.item)
        sides.add((one.swapped, one.repeated))
    assert len(sides) == 4
    ballot.close()


def test_order_sides_and_repeats_are_as_documented(tmp_path: Path) -> None:
    """Each of three persons sees every item once, in an order of their own; left and right take half each; about
    a tenth come again, later and with sides swapped."""
    path = vote_all(tmp_path / "votes.sqlite", ITEMS, ["ann", "bob", "cat"], lambda *_: "first", 3)
    votes, orders = read_votes(path), {}
    for person in ("ann", "bob", "cat"):
        shown = [vote for vote in votes if vote.person == person]
        first = [one.item.id for one in shown if not one.repeated]
        assert sorted(first) == sorted(one.id for one in ITEMS)
        orders[person] = first
        assert {one.item.id for one in shown if not one.repeated and one.swapped} == {
            key for key in first if second_left(person, key)
        }
        places = {one.item.id: place for place, one in enumerate(shown) if not one.repeated}
        again = [(place, one) for place, one in enumerate(shown) if one.repeated]
        assert 4 <= len(again) <= 16, REPEAT_EVERY
        for place, one in again:
            assert place - places[one.item.id] > REPEAT_AFTER
            assert one.swapped != second_left(person, one.item.id)
    assert len({tuple(order) for order in orders.values()}) == 3
    swapped = [second_left(person, one.id) for person in orders for one in ITEMS]
    assert 0.4 < sum(swapped) / len(swapped) < 0.6
    alike = [second_left("ann", one.id) == second_left("bob", one.id) for one in ITEMS]
    assert 0.3 < sum(alike) / len(alike) < 0.7, "sides are each person's own"


def test_persons_meet_the_same_items(tmp_path: Path) -> None:
    """Whoever judges only some of them: of their first 30 items two persons have many in common."""
    ballot = Ballot(tmp_path / "votes.sqlite", ITEMS)
    ann, bob = ({one.item.id for one in ballot.next_for(name, 30)} for name in ("ann", "bob"))
    assert len(ann & bob) >= 15, WINDOW
    ballot.close()


def test_each_item_is_judged_by_as_many_as_asked_for(tmp_path: Path) -> None:
    path = vote_all(tmp_path / "votes.sqlite", ITEMS[:30], ["ann", "bob", "cat"], lambda *_: "first")
    judged = Counter(vote.item.id for vote in read_votes(path) if not vote.repeated)
    assert set(judged.values()) == {2}
    assert len(judged) == 30


def test_what_is_for_training_comes_in_its_order(tmp_path: Path) -> None:
    items = [item(i, purpose="training") for i in range(90)]
    ballot = Ballot(tmp_path / "votes.sqlite", items)
    places = {one.id: place for place, one in enumerate(items)}
    shown = [places[one.item.id] for one in ballot.next_for("ann", 90) if not one.repeated]
    assert all(place < number + WINDOW for number, place in enumerate(shown))
    ballot.close()


def test_the_file_is_only_added_to(tmp_path: Path) -> None:
    path = vote_all(tmp_path / "votes.sqlite", ITEMS[:3], ["ann"], lambda *_: "first", 1)
    database = connect(path)
    for statement in (
        "DELETE FROM votes", "DELETE FROM items", "UPDATE votes SET note = 'x'", "UPDATE items SET first = 'x'",
    ):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            database.execute(statement)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(TrimtabError, match="written by a later trimtab"):
        read_votes(path)


def test_what_is_no_file_of_votes(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE t (x)")
    for path, why in ((other, "none of trimtab's votes"), (tmp_path / "gone.sqlite", "no such file")):
        with pytest.raises(TrimtabError, match=why):
            read_votes(path)
    text = tmp_path / "text.sqlite"
    text.write_text("no database at all, but a text of some length" * 10)
    with pytest.raises(TrimtabError, match="cannot be opened as a file of votes"):
        Ballot(text, ITEMS)


LOOP = """
import sys
from pathlib import Path
from prefer.cast import item
from trimtab.prefer.ballot import Ballot, NewVote
ballot = Ballot(Path(sys.argv[1]), [item(i) for i in range(500)], per_item=1)
for number in range(500):
    [one] = ballot.next_for("ann")
    ballot.record(NewVote(f"v{number}", one.item.id, "ann", one.repeated, "left"))
    print(f"v{number}", flush=True)
"""


def test_every_answered_vote_outlives_a_kill(tmp_path: Path) -> None:
    """Of a process that is killed as it writes: what it said that it had recorded is there once, and it goes on."""
    path, tests = tmp_path / "votes.sqlite", Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, str(path)], stdout=subprocess.PIPE, text=True, cwd=tests
    )
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(20)]
    time.sleep(0.01)
    process.kill()
    said += process.stdout.read().split()
    process.wait()
    kept = [vote.vote_id for vote in read_votes(path)]
    assert len(kept) == len(set(kept))
    assert kept[: len(said)] == said
    assert len(kept) <= len(said) + 1
    ballot = Ballot(path, [item(i) for i in range(500)], per_item=1)
    assert ballot.progress("ann").voted == len(kept)
    [one] = ballot.next_for("ann")
    assert one.repeated or one.item.id not in {vote.item.id for vote in ballot.votes()}
    ballot.close()


class Servers(RuleBasedStateMachine):
    """Two servers on one file, three persons, votes sent once, twice, to either, and taken back; beside a plain
    list of what should stand."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "votes.sqlite"
        self.items = ITEMS[:12]
        self.ballots = [self.opened(), self.opened()]
        self.standing: dict[str, tuple[str, str, bool, str]] = {}
        self.sent: list[NewVote] = []
        self.undone: list[tuple[str, str]] = []

    def opened(self) -> Ballot:
        return Ballot(self.path, self.items)

    @rule(server=st.sampled_from([0, 1]), person=st.sampled_from("abc"), verdict=st.sampled_from(SAID))
    def vote(self, server: int, person: str, verdict: str) -> None:
        """What is shown can be voted on, by whichever server it comes back to."""
        for one in self.ballots[server].next_for(person):
            vote = NewVote(f"v{len(self.sent)}", one.item.id, person, one.repeated, verdict)  # type: ignore[arg-type]
            found = self.ballots[1 - server].record(vote)
            assert (found.swapped, found.repeated, found.verdict) == (one.swapped, one.repeated, verdict)
            self.sent.append(vote)
            self.standing[vote.vote_id] = (person, one.item.id, one.repeated, verdict)

    @precondition(lambda self: self.sent)
    @rule(server=st.sampled_from([0, 1]), data=st.data())
    def send_again(self, server: int, data: st.DataObject) -> None:
        """The same vote, or another one on what this person has judged in another tab: neither is kept."""
        vote = data.draw(st.sampled_from(self.sent))
        found = self.ballots[server].record(vote)
        assert (found.vote_id, found.item.id) == (vote.vote_id, vote.item)
        if vote.vote_id in self.standing:
            other = NewVote(f"tab {vote.vote_id}", vote.item, vote.person, vote.repeated, "left")
            assert self.ballots[server].record(other).vote_id == vote.vote_id

    @precondition(lambda self: self.standing)
    @rule(server=st.sampled_from([0, 1]), person=st.sampled_from("abc"))
    def undo(self, server: int, person: str) -> None:
        ballot = self.ballots[server]
        last = ballot.last_of(person)
        own = [vote_id for vote_id, (who, *_) in self.standing.items() if who == person]
        assert (last.vote_id if last else None) == (own[-1] if own else None)
        if last is None:
            return
        stranger = "b" if person == "a" else "a"
        assert not ballot.undo(stranger, last.vote_id, f"stranger {last.vote_id}")
        assert ballot.undo(person, last.vote_id, f"u{last.vote_id}")
        assert self.ballots[1 - server].undo(person, last.vote_id, f"u{last.vote_id}")  # sent twice
        assert not ballot.undo(person, last.vote_id, f"other {last.vote_id}")
        del self.standing[last.vote_id]

    @rule(server=st.sampled_from([0, 1]))
    def start_again(self, server: int) -> None:
        self.ballots[server].close()
        self.ballots[server] = self.opened()

    @invariant()
    def both_say_what_stands(self) -> None:
        def row(vote: CastVote) -> tuple[str, tuple[str, str, bool, str]]:
            return vote.vote_id, (vote.person, vote.item.id, vote.repeated, vote.verdict)

        for ballot in self.ballots:
            votes = ballot.votes()
            assert dict(map(row, votes)) == self.standing
            assert len(votes) == len(self.standing)
            for person in "abc":
                voted = [one for one in self.standing.values() if one[0] == person]
                assert ballot.progress(person).voted == len(voted)
                assert len({one[1:3] for one in voted}) == len(voted)

    def teardown(self) -> None:
        for ballot in self.ballots:
            ballot.close()
        self.folder.cleanup()


TestServers = Servers.TestCase
TestServers.settings = settings(max_examples=10, stateful_step_count=30, deadline=None)
