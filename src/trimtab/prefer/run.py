"""`trimtab prefer`: from what was asked for to a page that runs, and a line when it ends."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trimtab.catalogue import CATALOGUE
from trimtab.chat.settings import ChatSettings
from trimtab.data.yaml_text import read_yaml
from trimtab.errors import TrimtabError
from trimtab.formats import counted
from trimtab.models.kinds import check_model_source
from trimtab.prefer.ballot import Ballot
from trimtab.readers.formats import check_sources, parts_of
from trimtab.study.sources import resolve_model

if TYPE_CHECKING:
    from trimtab.chat.speaker import Speaker
    from trimtab.prefer.app import Served

VOTES = "votes.sqlite"
PACKAGES = ("starlette", "uvicorn", "jinja2", "markdown_it")


@dataclass(frozen=True)
class Asked:
    """What `trimtab prefer` is asked for. models: as --model names them, for prompts of one's own."""

    sources: Sequence[str]
    methods: Sequence[str] = ()
    pairs: Literal["opponent", "all"] = "opponent"
    opponent: str | None = None
    mapping: Sequence[str] = ()
    for_training: bool = False
    per_item: int = 2
    votes: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    opens: bool = False
    models: Sequence[str] = ()
    speaking: ChatSettings = field(default_factory=lambda: ChatSettings(max_new_tokens=512))

    @property
    def file(self) -> Path:
        """Of the votes: in the folder that was named, or else here."""
        if self.votes is not None:
            return self.votes
        path = parts_of(self.sources[0])[1]
        return path / VOTES if path.is_dir() else Path(VOTES)


def check(asked: Asked) -> None:
    """TrimtabError for what is wrong, before anything is loaded or read that takes time."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TrimtabError(f"prefer: it needs {missing[0]}, which is not installed: pip install 'trimtab[prefer]'.")
    if not asked.sources:
        raise TrimtabError("nothing to judge. Name a study's folder, or files of completions: trimtab prefer RUN.")
    check_sources(asked.sources)
    if len(asked.models) == 1:
        raise TrimtabError("--model: name two models or more, of which two answer each prompt.")
    for model in asked.models:
        check_model_source(_place(model)[1], asked.speaking)


def run(asked: Asked) -> None:
    """Serves the page until a signal ends it. TrimtabError where sources, the votes' file or the port do not do."""
    from trimtab.prefer.items import items_of
    from trimtab.prefer.serve import Place, addresses, at, serve

    place = Place(asked.host, asked.port)
    items = items_of(
        asked.sources, methods=asked.methods, pairs=asked.pairs, opponent=asked.opponent, mapping=asked.mapping,
        for_training=asked.for_training,
    )  # fmt: skip
    ballot = Ballot(asked.file, items, asked.per_item)
    served = at(place, _served(asked, ballot), asked.file)
    for_people, for_owner = addresses(place, served)
    people = "person" if asked.per_item == 1 else "people"
    print(f"{len(items)} items, {asked.per_item} {people} each. Votes: {asked.file}")
    print(f"Judge: {for_people}")
    owners, _, token = for_owner.partition("?")
    print(f"Numbers, for you alone: {owners}numbers{f'?{token}' if token else ''}")
    print("Ctrl-C ends the page; every vote is kept as it comes.", flush=True)
    try:
        serve(place, served, asked.opens)
    finally:
        if served.own is not None:
            served.own.close()
        counts = ballot.counts()
        ballot.close()
        votes, people = counted(sum(counts.values()), "vote"), counted(len(counts), "person", "people")
        print(f"In {asked.file}: {votes} of {people}", flush=True)


def _served(asked: Asked, ballot: Ballot) -> Served:
    from trimtab.prefer.app import Served
    from trimtab.prefer.numbers_page import LiveNumbers
    from trimtab.prefer.own import OwnPrompts
    from trimtab.prefer.serve import key_of

    loaders = speakers_of(asked)
    own = OwnPrompts(loaders, ballot.add) if len(loaders) > 1 else None
    return Served(ballot, key_of(asked.file), "Which answer is better?", own, numbers=LiveNumbers(asked.file))


def speakers_of(asked: Asked) -> dict[str, Callable[[], Speaker]]:
    """How each model that may answer a prompt of one's own is loaded, by its name: those of --model, or else those
    that a study has trained, and its start."""
    places = dict(map(_place, asked.models)) if asked.models else _of_study(asked)
    return {name: partial(_load, name, place, asked.speaking) for name, place in places.items()}


def _load(name: str, place: str, settings: ChatSettings) -> Speaker:
    from trimtab.chat.speaker import Speaker

    return Speaker(name, place, settings)


def _place(model: str) -> tuple[str, str]:
    """NAME=PLACE, or a place whose last part names it; of a stage's best/ the stage."""
    name, mark, rest = model.partition("=")
    if not mark or "/" in name:
        path = Path(model)
        name, rest = path.parent.name if path.name == "best" else path.name, model
    return name, resolve_model(rest)


def _of_study(asked: Asked) -> Mapping[str, str]:
    """The models in a study's folder of its first training seed; none where the source is no study."""
    folder = parts_of(asked.sources[0])[1]
    recipe = folder / "recipe.yaml"
    seeds = sorted(folder.glob("seed-*/stages"), key=lambda path: path.parent.name.removeprefix("seed-").zfill(20))
    if not recipe.is_file() or not seeds:
        return {}
    found: dict[str, str] = {}
    with suppress(ValueError, AttributeError, TrimtabError, OSError):
        read = read_yaml(recipe.read_text(encoding="utf-8"))
        found["base"] = resolve_model(str(read["model"]))
    for stage in sorted(seeds[0].iterdir(), key=lambda path: path.name.zfill(40)):
        method, _, number = stage.name.rpartition("-")
        name = method if number.isdigit() else stage.name  # of several rounds the last
        if name in CATALOGUE and CATALOGUE[name].compared and (stage / "done.json").is_file():
            found[name] = str(stage / "best")
    kept = {name: place for name, place in found.items() if name in asked.methods}
    return kept if len(kept) > 1 else found
