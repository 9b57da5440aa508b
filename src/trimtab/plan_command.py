"""`trimtab plan`: its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.errors import TrimtabError
from trimtab.options import Limit, Set
from trimtab.show import print_table


def plan_command(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a file, or quickstart.")],
    measure: Annotated[bool, typer.Option(help="Time a few steps of each stage on this machine.")] = True,
    limit: Limit = None,
    settings: Set = None,
    seeds: Annotated[str, typer.Option(metavar="3", help="Training seeds: how many, or which (0,1,2).")] = "1",
    pilot: Annotated[Path | None, typer.Option(help="A study's folder: how much its differences vary.")] = None,
    machines: Annotated[int | None, typer.Option(min=1, max=4096, help="Times on 1, 2, 4, … so many.")] = None,
    processes: Annotated[int, typer.Option(min=1, max=4096, help="Of each stage, as torchrun starts them.")] = 1,
    price: Annotated[float | None, typer.Option(min=0, help="Of a machine's hour, for the cost.")] = None,
) -> None:
    """Memory, time, calls and disk of a study, and the smallest gain that it will show, before they are spent."""
    from trimtab.command_settings import seed_count
    from trimtab.study.asked import loading_libraries, recipe_asked

    count = seed_count(seeds)
    if not measure and machines is not None:
        raise TrimtabError("--machines needs times: leave --no-measure out.")
    if price is not None and machines is None:
        raise TrimtabError("--price is of machines: say how many at most, such as --machines 8.")
    loaded = recipe_asked(recipe, limit, settings or ())
    with loading_libraries():
        from trimtab.plan.estimate import make_plan
        from trimtab.plan.schedule import planned_seeds, planned_tasks
        from trimtab.plan.tables import machines_table, plan_tables
        from trimtab.study.read_results import read_results

    earlier = read_results(pilot) if pilot is not None else None
    estimated = make_plan(loaded, measure, count, earlier, processes)
    for table in plan_tables(estimated):
        print_table(table, table.caption)
    if machines is not None:
        tasks, seconds = planned_tasks(loaded, estimated, count)
        table = machines_table(tasks, seconds, machines, planned_seeds(loaded, count), price)
        print_table(table, table.caption)
    for line in estimated.notes:
        print(line)
