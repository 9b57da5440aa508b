"""Who is shown what, and what they say of it, kept.

Order: items stand in one random order for all; those that were chosen for training in the order in which they come,
the closest first. A person is given a random one of the first `WINDOW` that still want votes and that the person
has not judged, so that people meet the same items (agreement needs that) in different orders. Sides: by a hash of
person and item. About one in `REPEAT_EVERY` is an item that the person judged before, with sides swapped.

All of it is a function of the file: a page that is reloaded, or a server that is started again, goes on.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from trimtab.data.vote_file import CastVote, Item, Verdict, connect, transaction, votes_in
from trimtab.prefer.tally import Tally

WINDOW = 20
"""Items among which a person's next is drawn. In 30 votes each two persons meet some 18 of the same items."""
REPEAT_EVERY = 10
"""One in so many of a person's items is an earlier one again."""
REPEAT_AFTER = 5
"""Items that a person judges before one of them may come again."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a person is shown. swapped: whether the item's second answer stands left."""

    item: Item
    swapped: bool
    repeated: bool

    @property
    def left(self) -> str:
        return self.item.second_completion if self.swapped else self.item.first_completion

    @property
    def right(self) -> str:
        return self.item.first_completion if self.swapped else self.item.second_completion


@dataclass(frozen=True, slots=True)
class NewVote:
    """A vote as the page sends it. vote_id: made by the page, the same however often it is sent. milliseconds:
    since the item was seen."""

    vote_id: str
    item: str
    person: str
    repeated: bool
    verdict: Verdict
    reasons: Sequence[str] = ()
    note: str = ""
    milliseconds: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Of one person: votes that stand (repeats among them), and items that still want this person's vote."""

    voted: int
    left: int


class UnknownItemError(LookupError):
    """A vote on an item that is neither in the file nor among those that are served."""


class Ballot:
    """The items that are served, and the file of votes. per_item: persons that each item wants. It may be used by
    several threads; several of them, in several processes, may share a file.

    TrimtabError where the file is none of votes.
    """

    def __init__(self, path: Path, items: Sequence[Item], per_item: int = 2) -> None:
        self.per_item = per_item
        self._database = connect(path, create=True)
        self._lock = threading.Lock()
        self._tally = Tally()
        self._items = {item.id: item for item in items}
        chosen = {key: place for place, key in enumerate(self._items) if self._items[key].purpose == "training"}
        self._order = sorted(self._items, key=lambda key: (chosen.get(key, len(chosen)), _digest("order", key)))
        self._served = frozenset(self._order)
        self._wanting = set(self._order)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def add(self, item: Item) -> None:
        """Serves one item more, to whoever asks for it by its id: one of a person's own prompts. It is written at
        once, so that a vote on it is kept whatever happens to this server meanwhile."""
        with self._lock, transaction(self._database):
            self._keep_item(item)
            self._items.setdefault(item.id, item)

    def item(self, key: str) -> Item:
        """One that is served, or that the file has. UnknownItemError."""
        with self._lock:
            return self._item(key)

    def _item(self, key: str) -> Item:
        item = self._items.get(key) or self._kept_item(key)
        if item is None:
            raise UnknownItemError(key)
        return item

    def next_for(self, person: str, count: int = 1, held: Collection[str] = ()) -> list[Assignment]:
        """What the person should see next, as many as asked for or as there are. held: ids of items whose votes the
        page still holds, not yet sent, or already shows."""
        with self._lock:
            judged, repeats, wanting = self._state(person)
        found: list[Assignment] = []
        taken = set(held)
        while len(found) < count:
            one = self._next(person, judged, repeats, wanting, taken)
            if one is None:
                break
            taken.add(one.item.id)
            (repeats if one.repeated else judged).append(one.item.id)
            found.append(one)
        return found

    def _state(self, person: str) -> tuple[list[str], list[str], set[str]]:
        """Items that the person judged, those that came again, and those that still want persons."""
        self._catch_up()
        judged: list[str] = []
        repeats: list[str] = []
        for vote in self._tally.by_person.get(person, {}).values():
            (repeats if vote.repeated else judged).append(vote.item)
        return judged, repeats, self._wanting

    def _catch_up(self) -> None:
        for key in self._tally.catch_up(self._database) & self._served:
            if self._tally.persons_of(key) < self.per_item:
                self._wanting.add(key)
            else:
                self._wanting.discard(key)

    def _next(
        self, person: str, judged: Sequence[str], repeats: Sequence[str], wanting: set[str], taken: set[str]
    ) -> Assignment | None:
        # A repeat is due once for every REPEAT_EVERY places in the person's row, on average.
        place = len(judged) + len(repeats)
        done = set(repeats) | taken
        again = [
            key for key in judged[: max(0, len(judged) - REPEAT_AFTER)] if key not in done and key in self._items
        ]
        if again and number_of("repeat", person, str(place)) % REPEAT_EVERY == 0:
            key = min(again, key=lambda key: _digest("again", person, key))
            return Assignment(self._items[key], not second_left(person, key), True)
        seen = set(judged) | taken
        window: list[str] = []
        for key in self._order:
            if key in wanting and key not in seen:
                window.append(key)
                if len(window) == WINDOW:
                    break
        if not window:
            return None
        key = min(window, key=lambda key: _digest("next", person, key))
        return Assignment(self._items[key], second_left(person, key), False)

    def record(self, vote: NewVote) -> CastVote:
        """Keeps a vote, in one transaction, and returns it. One that was sent before, or that the person has cast
        on the item in another tab, is returned as it stands. UnknownItemError."""
        with self._lock, transaction(self._database):
            before = self._standing(vote)
            if before is None:
                item = self._item(vote.item)
                self._keep_item(item)
                swapped = second_left(vote.person, item.id) != vote.repeated
                self._add(vote, swapped, vote.verdict, None)
                before = self._standing(vote)
        assert before is not None
        return before

    def undo(self, person: str, vote_id: str, undo_id: str) -> Assignment | None:
        """Takes a vote back by adding a row that says so, and returns what the person judges anew. undo_id: made by
        the page. None where there is no such vote of this person's that stands; where this undo was sent before,
        what it returned then."""
        with self._lock, transaction(self._database):
            row = self._database.execute(
                "SELECT votes.number, votes.item, votes.swapped, votes.repeated FROM votes "
                "JOIN votes AS undo ON undo.undoes = votes.number WHERE undo.vote_id = ?",
                (undo_id,),
            ).fetchone()
            sent = row is not None
            if not sent:
                row = self._database.execute(
                    "SELECT number, item, swapped, repeated FROM live_votes WHERE vote_id = ? AND person = ?",
                    (vote_id, person),
                ).fetchone()
            if row is None:
                return None
            number, item, swapped, repeated = row
            if not sent:
                undo = NewVote(undo_id, item, person, bool(repeated), "skip")
                self._add(undo, bool(swapped), "undo", number)
            return Assignment(self._item(item), bool(swapped), bool(repeated))

    def progress(self, person: str) -> Progress:
        with self._lock:
            judged, repeats, wanting = self._state(person)
            done = sum(key in wanting for key in set(judged))
            return Progress(len(judged) + len(repeats), len(wanting) - done)

    def votes(self) -> list[CastVote]:
        """All that stand."""
        with self._lock:
            return votes_in(self._database)

    def last_of(self, person: str) -> CastVote | None:
        """The person's latest vote that stands: what undo takes back, also after the page was loaded anew."""
        with self._lock:
            self._catch_up()
            last = self._tally.last_of(person)
            return self._cast(last.number) if last is not None else None

    def counts(self) -> dict[str, int]:
        """By person, how many of their votes stand."""
        with self._lock:
            self._catch_up()
            return self._tally.counts

    def _standing(self, vote: NewVote) -> CastVote | None:
        """The vote with this id, taken back or not, or this person's that stands on the item."""
        same = self._database.execute("SELECT number FROM votes WHERE vote_id = ?", (vote.vote_id,)).fetchone()
        if same is None:
            same = self._database.execute(
                "SELECT number FROM live_votes WHERE person = ? AND item = ? AND repeated = ?",
                (vote.person, vote.item, vote.repeated),
            ).fetchone()
        if same is None:
            return None
        return self._cast(int(same[0]))

    def _cast(self, number: int) -> CastVote:
        row = self._database.execute(
            "SELECT number, vote_id, item, person, swapped, repeated, verdict, reasons, note, milliseconds, time "
            "FROM votes WHERE number = ?",
            (number,),
        ).fetchone()
        return CastVote(row[0], row[1], self._item(row[2]), row[3], bool(row[4]), bool(row[5]), *row[6:])

    def _kept_item(self, key: str) -> Item | None:
        row = self._database.execute("SELECT * FROM items WHERE id = ?", (key,)).fetchone()
        return Item(*row) if row is not None else None

    def _keep_item(self, item: Item) -> None:
        values = asdict(item)
        self._database.execute(
            f"INSERT OR IGNORE INTO items ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
            tuple(values.values()),
        )

    def _add(self, vote: NewVote, swapped: bool, verdict: str, undoes: int | None) -> None:
        self._database.execute(
            "INSERT INTO votes (vote_id, item, person, swapped, repeated, verdict, reasons, note, milliseconds, "
            "time, undoes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                vote.vote_id, vote.item, vote.person, swapped, vote.repeated, verdict,
                json.dumps(list(vote.reasons), ensure_ascii=False), vote.note, vote.milliseconds,
                datetime.now(UTC).isoformat(timespec="milliseconds"), undoes,
            ),
        )  # fmt: skip


def second_left(person: str, item: str) -> bool:
    """Whether the item's second answer stands left when this person first sees it."""
    return number_of("side", person, item) % 2 == 1


def item_id(prompt: str, answers: Sequence[tuple[str, int | None, str]], purpose: str, prompt_id: str = "") -> str:
    """Of a prompt and two answers (method, training seed, text): the same in every process. prompt_id: where a
    prompt has one; rows of the same text are items of their own."""
    said = json.dumps([purpose, prompt_id, prompt, *answers], ensure_ascii=False)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _digest(*words: str) -> bytes:
    return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def number_of(*words: str) -> int:
    """64 bits that follow from words alone: the same in every process."""
    return int.from_bytes(_digest(*words), "big")
