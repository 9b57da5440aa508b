"""A plan as tables to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from trimtab.formats import NONE, byte_size, rough_duration
from trimtab.plan.estimate import Plan, StagePlan
from trimtab.plan.schedule import critical_path, doubling, schedule
from trimtab.report.table import Table
from trimtab.study.graph import Task
from trimtab.study.training_seed import TrainingSeed


def _table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    return Table(title.lower(), title, header, rows, [])


def plan_tables(plan: Plan) -> list[Table]:
    """A plan as tables: stages, memory by part, time by part, calls."""
    tables = [_parameters(plan), _stages(plan), _memory(plan)]
    if any(stage.seconds for stage in plan.stages):
        tables.append(_time(plan))
    tables.append(_calls(plan))
    return [table for table in tables if table.rows]


def _parameters(plan: Plan) -> Table:
    rows = [["the model", f"{plan.parameters.total:,}", f"{plan.parameters.embeddings:,}", NONE]]
    rows += [
        [
            stage.work.name,
            f"{stage.parameters.total:,}",
            f"{stage.parameters.embeddings:,}",
            f"{stage.parameters.trained:,}",
        ]
        for stage in plan.stages
    ]
    return _table("Parameters", ["Of", "In memory", "Embeddings", "Trained"], rows)


def _stages(plan: Plan) -> Table:
    rows = [
        [
            stage.work.name,
            f"{stage.work.groups:,}",
            f"{stage.work.steps:,}",
            f"{stage.work.step_tokens:,.0f}",
            f"{stage.work.evaluations:,}",
            byte_size(stage.disk.running),
            byte_size(stage.disk.left),
        ]
        for stage in plan.stages
    ]
    header = ["Stage", "Rows", "Steps", "Tokens a step", "Evaluations", "Disk while it runs", "Disk after, at most"]
    return _table("Work and disk", header, rows)


def _memory(plan: Plan) -> Table:
    """A column for each stage, a row for each part."""
    names = list(dict.fromkeys(part for stage in plan.stages for part in stage.memory.parts))

    def cell(stage: StagePlan, part: str) -> str:
        value = stage.memory.parts.get(part)
        return byte_size(value) if value else NONE

    rows = [[name, *(cell(stage, name) for stage in plan.stages)] for name in names]
    rows.append(["peak", *(byte_size(stage.memory.total) for stage in plan.stages)])
    rows.append(["reached in", *(stage.memory.phase for stage in plan.stages)])
    return _table(f"Memory on {plan.device}", ["Part", *(s.work.name for s in plan.stages)], rows)


def _time(plan: Plan) -> Table:
    names = list(dict.fromkeys(part for stage in plan.stages for part in stage.seconds))
    rows = [
        [
            stage.work.name,
            *(rough_duration(stage.seconds.get(n, 0.0)) for n in names),
            rough_duration(sum(stage.seconds.values())),
        ]
        for stage in plan.stages
    ]
    whole = sum(sum(stage.seconds.values()) for stage in plan.stages)
    if plan.evaluation_seconds is not None:
        rows.append(["evaluation of all", *([NONE] * len(names)), rough_duration(plan.evaluation_seconds)])
        whole += plan.evaluation_seconds
    rows.append(["all", *([NONE] * len(names)), rough_duration(whole)])
    return _table(f"Time on {plan.device}", ["Stage", *names, "Sum"], rows)


def machines_table(
    tasks: Sequence[Task],
    seconds: Mapping[Task, float],
    most: int,
    seeds: Sequence[TrainingSeed],
    price: float | None,
) -> Table:
    """A row for each number of machines. price: of a machine's hour, in any currency."""
    alone = schedule(tasks, seconds, 1).seconds
    rows = []
    for machines in doubling(most):
        made = schedule(tasks, seconds, machines)
        paid = machines * made.seconds / 3600
        rows.append(
            [
                str(machines),
                rough_duration(made.seconds),
                f"{alone / made.seconds:.2f}" if made.seconds else NONE,
                f"{100 * made.busy:.0f}",
                f"{paid:.1f}",
                *([f"{paid * price:,.2f}"] if price is not None else []),
            ]
        )
    path, longest = critical_path(tasks, seconds)
    cost = ["Cost"] if price is not None else []
    table = _table(
        "On several machines", ["Machines", "Time", "Times as fast", "Busy, %", "Machine hours", *cost], rows
    )
    named = " → ".join(task.title(seeds) for task in path)
    note = f"No number of machines is faster than {rough_duration(longest)}: {named}."
    return replace(table, notes=[note, "Each machine is as fast as this one, and does one stage at a time."])


def _calls(plan: Plan) -> Table:
    rows = [[c.who, c.scored_by, f"{c.completions:,}", f"{c.tokens:,}"] for c in plan.calls]
    return _table("Reward and judge calls, at most", ["Of", "Scored by", "Completions", "Tokens"], rows)
