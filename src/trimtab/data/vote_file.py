"""The file of people's votes (`votes.sqlite`): which two answers were shown to whom, where, and what was said.

Votes are only ever added. A vote that is taken back stays, and a later row says so (`undoes`). Each is committed by
itself, with the texts that were seen (the row of `items`, written in the same transaction), so that the file says
everything without the study that it came from. Several processes may write at once.

`items`: two answers to a prompt. `purpose` is "random" where chance chose the prompt and the pair, so that
estimates may rest on it; "training" where the item was chosen because it is uncertain; "own" where the person wrote
the prompt. `votes`: `vote_id` is made where the vote is cast, so that a vote that is sent twice is kept once.
`swapped`: whether the item's second answer stood left. `repeated`: whether the person saw the item a second time,
with sides swapped.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trimtab.errors import TrimtabError

Purpose = Literal["random", "training", "own"]
Verdict = Literal["left", "right", "both good", "both bad", "skip"]
VERDICTS: tuple[str, ...] = get_args(Verdict)

VERSION = 1
"""Of the schema, in the file's `user_version`."""
BUSY = 30.0
"""Seconds that a process waits for another's write."""

_SCHEMA = """
CREATE TABLE items (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL CHECK (purpose IN ('random', 'training', 'own')),
    prompt_id TEXT NOT NULL,
    prompt TEXT NOT NULL,           -- as it is read
    messages TEXT NOT NULL,         -- the conversation, JSON
    first TEXT NOT NULL,            -- the method of the first answer
    second TEXT NOT NULL,
    seed INTEGER,                   -- the training seed that answered, where methods have several
    first_completion TEXT NOT NULL,
    second_completion TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE votes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    vote_id TEXT NOT NULL UNIQUE,
    item TEXT NOT NULL REFERENCES items,
    person TEXT NOT NULL,
    swapped INTEGER NOT NULL CHECK (swapped IN (0, 1)),
    repeated INTEGER NOT NULL CHECK (repeated IN (0, 1)),
    verdict TEXT NOT NULL CHECK (verdict IN ('left', 'right', 'both good', 'both bad', 'skip', 'undo')),
    reasons TEXT NOT NULL,          -- JSON list of words
    note TEXT NOT NULL,
    milliseconds INTEGER,           -- from when the item was seen to the vote
    time TEXT NOT NULL,             -- UTC, ISO 8601
    undoes INTEGER UNIQUE REFERENCES votes CHECK ((undoes IS NULL) = (verdict <> 'undo'))
);
CREATE INDEX votes_of_person ON votes (person, item);
CREATE TRIGGER votes_stay BEFORE UPDATE ON votes BEGIN SELECT RAISE(ABORT, 'votes are only added'); END;
CREATE TRIGGER votes_remain BEFORE DELETE ON votes BEGIN SELECT RAISE(ABORT, 'votes are only added'); END;
CREATE TRIGGER items_stay BEFORE UPDATE ON items BEGIN SELECT RAISE(ABORT, 'items are only added'); END;
CREATE TRIGGER items_remain BEFORE DELETE ON items BEGIN SELECT RAISE(ABORT, 'items are only added'); END;
CREATE VIEW live_votes AS
    SELECT votes.*, items.purpose, items.prompt_id, items.prompt, items.messages, items.first, items.second,
           items.seed, items.first_completion, items.second_completion
    FROM votes JOIN items ON items.id = votes.item
    WHERE votes.verdict <> 'undo'
      AND NOT EXISTS (SELECT 1 FROM votes AS later WHERE later.undoes = votes.number);
"""


@dataclass(frozen=True, slots=True)
class Item:
    """Two answers to one prompt. first, second: the methods. messages: the conversation, JSON. seed: the training
    seed that answered; None where methods have only one."""

    id: str
    purpose: Purpose
    prompt_id: str
    prompt: str
    messages: str
    first: str
    second: str
    seed: int | None
    first_completion: str
    second_completion: str


@dataclass(frozen=True, slots=True)
class CastVote:
    """One vote that stands. share: of the item's first answer: 1 where it is better, ½ where both are good or both
    bad, 0 where the second is better; None where the person skipped it. time: UTC, ISO 8601."""

    number: int
    vote_id: str
    item: Item
    person: str
    swapped: bool
    repeated: bool
    verdict: Verdict
    reasons: str
    note: str
    milliseconds: int | None
    time: str

    @property
    def share(self) -> float | None:
        if self.verdict == "skip":
            return None
        if self.verdict in ("left", "right"):
            return float((self.verdict == "left") != self.swapped)
        return 0.5


def is_vote_file(path: Path) -> bool:
    """Whether a path is called what a file of votes is: .sqlite, .sqlite3 or .db."""
    return path.suffix.lower() in (".sqlite", ".sqlite3", ".db")


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """The opened file, in autocommit mode. TrimtabError where it is not there and is not to be made, is not one of
    votes, or was written by a later trimtab."""
    if not create and not path.is_file():
        raise TrimtabError(f"{path}: no such file.")
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            _prepare(database, path, create)
        except BaseException:
            database.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise TrimtabError(f"{path}: cannot be opened as a file of votes ({error}).") from None
    return database


def _prepare(database: sqlite3.Connection, path: Path, create: bool) -> None:
    database.execute("PRAGMA foreign_keys = ON")
    if create:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # an answered vote outlives a power cut
        with transaction(database):
            if _version(database) == 0 and _is_empty(database):
                for statement in _statements():
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")
    version = _version(database)
    if version > VERSION:
        raise TrimtabError(
            f"{path}: written by a later trimtab (schema {version}, here {VERSION}). Update trimtab."
        )
    if version == 0:
        raise TrimtabError(f"{path}: an SQLite file, but none of trimtab's votes.")


def _statements() -> Iterator[str]:
    """One by one: executescript would commit the transaction first."""
    statement = ""
    for line in _SCHEMA.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _is_empty(database: sqlite3.Connection) -> bool:
    return bool(database.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()[0])


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; begun as a writer, so that what is read in it is not overtaken."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


_ITEM = "item, purpose, prompt_id, prompt, messages, first, second, seed, first_completion, second_completion"
_VOTE = "number, vote_id, person, swapped, repeated, verdict, reasons, note, milliseconds, time"


def votes_in(database: sqlite3.Connection) -> list[CastVote]:
    """The votes that stand, in the order in which they were cast."""
    found = []
    items: dict[str, Item] = {}
    for row in database.execute(f"SELECT {_ITEM}, {_VOTE} FROM live_votes ORDER BY number"):
        item = items.setdefault(row[0], Item(*row[:10]))
        number, vote_id, person, swapped, repeated, *said = row[10:]
        found.append(CastVote(number, vote_id, item, person, bool(swapped), bool(repeated), *said))
    return found


def hash_votes(path: Path) -> bytes:
    """Of the votes that stand and of what they are on; what SQLite has in which of its files is no matter."""
    digest = hashlib.blake2b(digest_size=16)
    with closing(connect(path)) as database:
        for row in database.execute("SELECT * FROM live_votes ORDER BY number"):
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.digest()


def read_votes(path: Path) -> list[CastVote]:
    """The votes of a file that stand. TrimtabError where it is none of votes."""
    with closing(connect(path)) as database:
        return votes_in(database)
