"""Scores that were paid for, on disk: one row for each (reward, prompt, completion), in SQLite.

Each score is committed as it arrives, so a kill loses none; several processes may share the file. Failures
are never written: the next run asks again. Texts are held as digests: the file keeps nobody's data.

Of several processes one asks for an item: it claims the item, and the others wait for its score. A claim is
renewed while its process lives; one that was not for LEASE seconds, or whose process is gone from this machine, is
another's for the taking.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.data.message import Answer, answer_turn, tools_and_values
from trimtab.errors import TrimtabError
from trimtab.rewards.base import Prompt, Scored

Item = tuple[Prompt, str]
"""A prompt and a completion."""

BUSY = 60.0
"""Seconds that a process waits for another's write."""

LEASE = 60.0
"""Seconds that a claim lasts after it was made or renewed."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
    reward TEXT NOT NULL,
    prompt BLOB NOT NULL,
    completion BLOB NOT NULL,
    score REAL NOT NULL,
    breakdown TEXT NOT NULL,
    PRIMARY KEY (reward, prompt, completion)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    reward TEXT NOT NULL,
    prompt BLOB NOT NULL,
    completion BLOB NOT NULL,
    owner TEXT NOT NULL,
    renewed REAL NOT NULL,
    PRIMARY KEY (reward, prompt, completion)
) WITHOUT ROWID;
"""
KEY = "reward = ? AND prompt = ? AND completion = ?"


class ScoreCache:
    """The file of scores. path: where it is; it is made with its folder when first needed.

    Usable from several threads only in turn.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: sqlite3.Connection | None = None
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"

    def get(self, reward: str, items: Iterable[Item]) -> dict[Item, Scored]:
        """The scores of those items that have one. reward: its signature."""
        scores = {}
        with self._database() as database:
            for prompt, completion in items:
                row = database.execute(
                    "SELECT score, breakdown FROM scores WHERE reward = ? AND prompt = ? AND completion = ?",
                    (reward, digest(prompt), digest(completion)),
                ).fetchone()
                if row is not None:
                    scores[prompt, completion] = Scored(row[0], breakdown=json.loads(row[1]))
        return scores

    def put(self, reward: str, item: Item, scored: Scored) -> None:
        """Commits one score. One that another process wrote in the meantime stays."""
        if scored.score is None or not math.isfinite(scored.score):
            raise ValueError(f"only a score is kept, and {scored.score} is none")
        row = (reward, digest(item[0]), digest(item[1]), float(scored.score), json.dumps(dict(scored.breakdown)))
        with self._database() as database, _transaction(database):
            database.execute("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?)", row)
            database.execute(f"DELETE FROM claims WHERE {KEY}", row[:3])

    def claim(self, reward: str, item: Item) -> Scored | bool:
        """The item's score, where another process has it by now; else whether this one is to ask for it."""
        key = (reward, digest(item[0]), digest(item[1]))
        with self._database() as database, _transaction(database, durable=False):
            if (
                row := database.execute(f"SELECT score, breakdown FROM scores WHERE {KEY}", key).fetchone()
            ) is not None:
                return Scored(row[0], breakdown=json.loads(row[1]))
            held = database.execute(f"SELECT owner, renewed FROM claims WHERE {KEY}", key).fetchone()
            if held is not None and held[0] != self.owner and _lives(*held):
                return False
            database.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", (*key, self.owner, time.time())
            )
            return True

    def renew(self) -> None:
        """Makes this process's claims last for another LEASE seconds."""
        with self._database() as database, _transaction(database, durable=False):
            database.execute("UPDATE claims SET renewed = ? WHERE owner = ?", (time.time(), self.owner))

    def release(self, reward: str | None = None, item: Item | None = None) -> None:
        """Gives up the claim on an item that got no score; without an item, all of this process's claims."""
        with self._database() as database, _transaction(database, durable=False):
            if item is None:
                database.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
            else:
                key = (reward, digest(item[0]), digest(item[1]), self.owner)
                database.execute(f"DELETE FROM claims WHERE {KEY} AND owner = ?", key)

    def count(self) -> int:
        """How many scores the file holds, of all rewards."""
        with self._database() as database:
            return int(database.execute("SELECT count(*) FROM scores").fetchone()[0])

    def close(self) -> None:
        """Leaves one whole file, without a journal beside it. It opens again when needed."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._opened is None:
                self._opened = self._open()
            yield self._opened
        except (sqlite3.Error, OSError) as error:
            raise TrimtabError(f"score cache {self.path}: {error}. {_advice(str(error))}") from None

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit: each statement is a transaction. The event loop may run in a thread of its own.
        database = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(database)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        until = time.monotonic() + BUSY
        while True:
            try:
                # Where the file system can't do it SQLite keeps its rollback journal, which is as safe.
                database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # Turning WAL on does not wait for others that do the same.
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        database.execute("PRAGMA synchronous = FULL")  # on the disk, not only out of this process
        if (
            database.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('scores', 'claims')").fetchone()[0]
            < 2
        ):
            database.executescript(SCHEMA)


@contextmanager
def _transaction(database: sqlite3.Connection, durable: bool = True) -> Iterator[None]:
    """One step, seen whole or not at all. durable: on the disk when it returns, as scores must be; a claim that a
    power cut loses costs a question at most."""
    if not durable:
        database.execute("PRAGMA synchronous = NORMAL")
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
    finally:
        if not durable:
            database.execute("PRAGMA synchronous = FULL")


def _lives(owner: str, renewed: float) -> bool:
    """Whether a claim holds. A clock that is far off makes it lapse: then an item is asked for twice, no worse."""
    host, pid, _ = owner.rsplit(":", 2)
    if abs(time.time() - renewed) > LEASE:
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _advice(error: str) -> str:
    """What to do about SQLite's own words."""
    elsewhere = "or name another file with the reward's 'cache'"
    if "full" in error or "No space" in error:
        return f"Make room on the disk; the same command goes on, and what was scored is kept. Or: {elsewhere[3:]}."
    if "readonly" in error or "unable to open" in error or "Permission" in error:
        return f"Make the file and its folder writable, {elsewhere}."
    if "locked" in error or "busy" in error:
        return f"Another program holds it: end that one and run the same command again, {elsewhere}."
    return f"Mend or remove the file (its scores are then asked for again), {elsewhere}."


def digest(text: Prompt) -> bytes:
    """16 bytes that stand for a text or a conversation; a text and its one-turn conversation differ."""
    if isinstance(text, Answer):
        text = (answer_turn(text),)
    turns: list[object] = (
        [] if isinstance(text, str) else [[m.role, m.content, *filter(None, [m.extra])] for m in text]
    )
    value: str | list[object] = text if isinstance(text, str) else turns
    if any(tools_and_values(text)):
        value = [value, *tools_and_values(text)]
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).digest()
