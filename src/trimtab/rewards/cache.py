"""Scores that were paid for, on disk: one row for each (reward, prompt, completion), in SQLite.

Each score is committed as it arrives, so a kill loses none; several processes may share the file. Failures
are never written: the next run asks again. Texts are held as digests: the file keeps nobody's data.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.errors import TrimtabError
from trimtab.rewards.base import Prompt, Scored

Item = tuple[Prompt, str]
"""A prompt and a completion."""

BUSY = 60.0
"""Seconds that a process waits for another's write."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
    reward TEXT NOT NULL,
    prompt BLOB NOT NULL,
    completion BLOB NOT NULL,
    score REAL NOT NULL,
    breakdown TEXT NOT NULL,
    PRIMARY KEY (reward, prompt, completion)
) WITHOUT ROWID
"""


class ScoreCache:
    """path: the file, made with its folder when first needed. Usable from several threads only in turn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: sqlite3.Connection | None = None

    def get(self, reward: str, items: Iterable[Item]) -> dict[Item, Scored]:
        """The items that are there with their scores. reward: its signature."""
        found = {}
        with self._database() as database:
            for prompt, completion in items:
                row = database.execute(
                    "SELECT score, breakdown FROM scores WHERE reward = ? AND prompt = ? AND completion = ?",
                    (reward, digest(prompt), digest(completion)),
                ).fetchone()
                if row is not None:
                    found[prompt, completion] = Scored(row[0], breakdown=json.loads(row[1]))
        return found

    def put(self, reward: str, item: Item, scored: Scored) -> None:
        """Commits one score. One that another process wrote in the meantime stays."""
        if scored.score is None or not math.isfinite(scored.score):
            raise ValueError(f"only a score is kept, and {scored.score} is none")
        row = (reward, digest(item[0]), digest(item[1]), float(scored.score), json.dumps(dict(scored.breakdown)))
        with self._database() as database:
            database.execute("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?)", row)

    def count(self) -> int:
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
            raise TrimtabError(
                f"score cache {self.path}: {error}. Mend or remove the file (its scores are then asked for again), "
                "or name another with the reward's 'cache'."
            ) from None

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
        database.execute(SCHEMA)


def digest(text: Prompt) -> bytes:
    """16 bytes that stand for a text or a conversation; a text and its one-turn conversation differ."""
    value = text if isinstance(text, str) else [[m.role, m.content] for m in text]
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).digest()
