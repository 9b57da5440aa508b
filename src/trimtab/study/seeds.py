"""The training seeds of a study's folder, and the recipe of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimtab.data.parsing import parse
from trimtab.errors import TrimtabError
from trimtab.files import read_json
from trimtab.methods.table import METHODS
from trimtab.notices import say
from trimtab.recipe import Recipe


def seeds_of(out: Path, own: int, seeds: Sequence[int] | None) -> list[int]:
    """The training seeds of a study's folder: those that it has, then those asked for now; what differs from what
    was asked for is said. own: the recipe's, for a folder without any."""
    if seeds is not None and (not seeds or min(seeds) < 0):
        raise TrimtabError("--seeds: name at least one training seed, such as 0,1,2; none is negative.")
    begun = {int(p.parents[2].name.removeprefix("seed-")) for p in out.glob("seed-*/*/*/metrics.jsonl")}
    if not begun:
        return [own] if seeds is None else list(dict.fromkeys(seeds))
    file = out / "environment.json"
    last = read_json(file, f"Remove {file}.").get("seeds", []) if file.is_file() else []
    # Of a seed that has not begun nothing is lost: another --seeds may leave it out.
    kept = [seed for seed in last if seeds is None or seed in begun]
    kept += sorted(begun - set(kept))
    training_seeds = list(dict.fromkeys([*kept, *(seeds or [])]))
    if seeds is not None and (more := [seed for seed in kept if seed not in seeds]):
        say(
            f"{out}: holds seed {_numbers(more)} too; the results are of all its seeds, {_numbers(training_seeds)}."
        )
    elif seeds is None and training_seeds != [own]:
        say(f"{out}: its training seeds are {_numbers(training_seeds)}; the results are of all of them.")
    return training_seeds


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def recipe_of_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe as if it said `seed`: stages follow, but for those that set a seed other than the recipe's."""
    if seed == recipe.seed:
        return recipe
    value = recipe.model_dump(exclude_unset=True) | {"seed": seed}
    for stage in map(value.get, METHODS):
        # Validation gave every stage that set none the recipe's.
        if stage is not None and stage.get("seed") == recipe.seed:
            stage["seed"] = seed
    return parse(Recipe, value, f"--seeds {seed}")
