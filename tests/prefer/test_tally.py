"""The tally that is kept up with a file of votes says what the file's own view of standing votes says."""

from __future__ import annotations

from contextlib import closing
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.data.vote_file import VERDICTS, Item, connect
from trimtab.prefer.ballot import Ballot, NewVote, Progress, UnknownItemError


def items(number: int) -> list[Item]:
    return [
        Item(f"item-{i}", "random", f"p{i}", f"ask {i}", "[]", "sft", "dpo", None, f"first {i}", f"second {i}")
        for i in range(number)
    ]


acts = st.tuples(
    st.integers(0, 1),  # which server
    st.integers(0, 2),  # whose
    st.integers(0, 3),  # the item
    st.booleans(),  # repeated
    st.sampled_from([*VERDICTS, "undo"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(acts, max_size=25))
def test_two_servers_know_what_the_file_says(done: list[tuple[int, int, int, bool, str]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "votes.sqlite"
        servers = [Ballot(path, items(4), per_item=2) for _ in range(2)]
        names = map(str, count())
        for which, who, item, repeated, verdict in done:
            server, person = servers[which], f"person {who}"
            if verdict == "undo":
                last = server.last_of(person)
                if last is not None:
                    assert server.undo(person, last.vote_id, next(names))
            else:
                server.record(NewVote(next(names), f"item-{item}", person, repeated, verdict))  # type: ignore[arg-type]
        with closing(connect(path)) as database:
            for server in servers:
                for who in range(3):
                    person = f"person {who}"
                    voted = database.execute("SELECT count(*) FROM live_votes WHERE person = ?", (person,))
                    wanting = database.execute(
                        "WITH served(id) AS (VALUES ('item-0'), ('item-1'), ('item-2'), ('item-3')) "
                        "SELECT count(*) FROM served WHERE (SELECT count(DISTINCT person) FROM live_votes "
                        "WHERE item = id AND verdict <> 'skip') < 2 AND NOT EXISTS "
                        "(SELECT 1 FROM live_votes WHERE item = id AND person = ? AND NOT repeated)",
                        (person,),
                    )
                    assert server.progress(person) == Progress(voted.fetchone()[0], wanting.fetchone()[0])
                    newest = database.execute("SELECT max(number) FROM live_votes WHERE person = ?", (person,))
                    last = server.last_of(person)
                    assert (last.number if last else None) == newest.fetchone()[0]
        for server in servers:
            server.close()


def test_an_item_that_was_added_outlives_its_server(tmp_path: Path) -> None:
    """The page holds a prompt of one's own while the server is started again."""
    path = tmp_path / "votes.sqlite"
    before = Ballot(path, items(1))
    own = Item("own", "own", "o", "mine", "[]", "sft", "dpo", None, "a", "b")
    before.add(own)
    before.close()
    after = Ballot(path, items(1))
    assert after.item("own") == own
    kept = after.record(NewVote("v1", "own", "ada", False, "left"))
    assert kept.item == own
    assert [one.item.id for one in after.next_for("ada", 5)] == ["item-0"]
    with pytest.raises(UnknownItemError):
        after.item("nobody's")
    after.close()
