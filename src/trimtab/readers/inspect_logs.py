"""inspect's logs: .eval, a zip archive with a file for each sample, and the same as one .json file.

Its archives are compressed by zstd, which Python's own zipfile reads from 3.14 on. A sample's score is that of its
first scorer, or of `--map score=SCORER`; "C" is 1, "P" a half, "I" and "N" 0, as inspect counts them.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from trimtab.data.fields import BadRowError
from trimtab.errors import TrimtabError
from trimtab.json_types import JsonObject, JsonValue
from trimtab.notices import warn
from trimtab.readers.columns import Reading
from trimtab.readers.rows import MethodRows, Row, Side
from trimtab.readers.values import conversation_read, key_read, prompt_read, score_read

ZSTD = 93
"""The method of compression in a zip archive."""
ATTACHED = "attachment://"
"""Texts that a log keeps beside its sample begin so."""


def suits(path: Path) -> bool:
    """An .eval file, or a JSON file of an object with `eval` and `version` near its beginning."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".eval":
        return True
    if not path.name.lower().endswith((".json", ".json.gz")):
        return False
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False  # whoever reads it next says what is wrong with it
    return start.startswith(b"{") and b'"version"' in start and (b'"eval"' in start or b'"status"' in start)


def read(path: Path, asked: Reading) -> list[MethodRows]:
    """The samples of one evaluation; of several epochs a sample comes as often. TrimtabError for a spoilt log."""
    try:
        header, samples = _archive(path) if path.suffix.lower() == ".eval" else _json(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TrimtabError(f"{path}: not a readable log of inspect ({error}).") from None
    told = header.get("eval") or {}
    if (status := header.get("status")) not in ("success", None):
        warn(f"{path.name}: the evaluation ended with status {status}", about=f"status of {path}")
    scorer, others = _scorer(samples, asked, path)
    if others:
        warn(f"{path.name}: scored by {scorer}; left out: {', '.join(others)}", about=f"scorer of {path}")
    rows, unreadable = [], Counter[str]()
    for sample in samples:
        try:
            rows.append(_row(sample, scorer))
        except BadRowError as error:
            unreadable[str(error)] += 1
    name = str(told.get("model") or path.stem).rpartition("/")[2]
    return [
        MethodRows(name, rows, str(path), judge=f"inspect's {scorer}" if scorer else None, unreadable=unreadable)
    ]


def _json(path: Path) -> tuple[JsonObject, list[JsonObject]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    log = json.loads(data)
    return log, list(log.get("samples") or [])


def _archive(path: Path) -> tuple[JsonObject, list[JsonObject]]:
    """Its header, or of an evaluation that was stopped the journal's, and every sample, in the order of their
    names; a name that comes twice was written anew, and the last counts."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        head = next((name for name in ("header.json", "_journal/start.json") if name in members), None)
        header = json.loads(_content(archive, members[head])) if head else {}
        names = [name for name in members if name.startswith("samples/") and name.endswith(".json")]
        return header, [json.loads(_content(archive, members[name])) for name in names]


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes. What zipfile can't decompress is read where it lies: behind a header of 30 bytes, a name
    and an extra field, whose lengths stand at 26 and 28."""
    if member.compress_type != ZSTD:
        return archive.read(member)
    import pyarrow as pa

    file = archive.fp
    assert file is not None
    file.seek(member.header_offset)
    head = file.read(30)
    file.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), 1)
    packed = file.read(member.compress_size)
    content: bytes = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read()
    if len(content) != member.file_size:
        raise ValueError(f"{member.filename} is cut")
    return content


def _scorer(samples: list[JsonObject], asked: Reading, path: Path) -> tuple[str, list[str]]:
    """Whose score counts, and the other scorers. --map score=SCORER or SCORER.KEY, where its value is an object."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.get("scores") or {}))
    wanted = asked.mapping.get("score", names[0] if names else "")
    scorer = wanted if wanted in names else wanted.partition(".")[0]
    if wanted and scorer not in names:
        raise TrimtabError(f"{path}: no scorer {scorer!r}. It has: {', '.join(names) or 'none'}.")
    return wanted, [name for name in names if name != scorer]


def _row(sample: JsonObject, scorer: str) -> Row:
    attachments = sample.get("attachments") or {}
    scores = sample.get("scores") or {}
    name, _, key = (scorer, "", "") if scorer in scores else scorer.partition(".")
    value = (scores.get(name) or {}).get("value")
    if isinstance(value, Mapping):
        value = value.get(key) if key else next(iter(value.values())) if len(value) == 1 else value
    read_value = score_read(value)
    failed = (sample.get("error") or {}).get("message") if isinstance(sample.get("error"), Mapping) else None
    reason = read_value.reason if scores else f"the sample failed: {failed}" if failed else "it was not scored"
    asked = _resolved(sample.get("input"), attachments)
    output = sample.get("output") or {}
    choices = output.get("choices") or []
    choice = choices[0] if choices else {}
    message = choice.get("message") or {}
    completion = _text(_resolved(message.get("content"), attachments)) if choices else None
    usage = output.get("usage") or {}
    ended = {"stop": True, "max_tokens": False, "model_length": False}.get(str(choice.get("stop_reason")))
    tokens = usage.get("output_tokens")
    side = Side(completion, read_value.score, reason, tokens if isinstance(tokens, int) else None, ended)
    return Row(key_read(sample.get("id")), prompt_read(asked), side, turns=conversation_read(asked))


def _resolved(value: JsonValue, attachments: Mapping[str, JsonValue]) -> JsonValue:
    """With the texts that the log keeps as attachments in their places."""
    if isinstance(value, str) and value.startswith(ATTACHED):
        return attachments.get(value.removeprefix(ATTACHED), value)
    if isinstance(value, list):
        return [_resolved(item, attachments) for item in value]
    if isinstance(value, Mapping):
        return {key: _resolved(item, attachments) for key, item in value.items()}
    return value


def _text(content: JsonValue) -> str | None:
    """A message's text; of parts those that are text, without thoughts."""
    if isinstance(content, list):
        return "".join(_parts(content))
    return None if content is None else str(content)


def _parts(content: list[JsonValue]) -> Iterator[str]:
    for part in content:
        if isinstance(part, Mapping) and part.get("type", "text") == "text":
            yield str(part.get("text") or "")
