"""People's labels of what is compared: `trimtab compare --labels`, and `trimtab report --labels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trimtab.comparing.join import Joined
from trimtab.comparing.sides import Sides, sides_of
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results, Setting
from trimtab.evaluation.row_columns import cluster_names, takes_near_duplicates
from trimtab.evaluation.summary import StudyOutputs, with_people
from trimtab.folder_lock import holding
from trimtab.readers import folders
from trimtab.readers.columns import mapping_of
from trimtab.readers.labels import check_labels
from trimtab.readers.votes import labels_of
from trimtab.study.command_line import without_secrets
from trimtab.study.read_results import read_results


def labelled(sides: Sides, path: Path, mapping: Mapping[str, str]) -> StudyOutputs:
    """The outputs with a file's labels. TrimtabError where no label is of them."""
    return replace(
        sides.outputs,
        labels=labels_of(
            path,
            sides.outputs,
            sides.start,
            mapping=mapping,
            aliases=_ids_of_sources(sides.joined),
            one_sample=all(len(rows) == 1 for group in sides.joined.rows for rows in group.values()),
        ),
    )


def _ids_of_sources(joined: Joined) -> dict[str, str]:
    """Of prompts that are joined by their texts, the ids that sources have for them; none that stands for two."""
    found: dict[str, set[str]] = {}
    for group in joined.rows:
        for key, rows in group.items():
            for row in rows:
                if row.key is not None:
                    found.setdefault(row.key, set()).add(key)
    return {alias: keys.pop() for alias, keys in found.items() if len(keys) == 1}


def report_labelled(folder: Path, labels: Path, mapping: Sequence[str] = ()) -> Path:
    """`trimtab report --labels`: the results and report of a study or an evaluation with people's labels, and
    nothing else anew; returns the page. mapping: as --map. TrimtabError where the folder has no completions, or no
    label is of them."""
    check_labels(labels)
    results = read_results(folder)
    if not folders.suits(folder):
        raise TrimtabError(f"{folder}: no completions in it, which labels are of. Compare again with --labels.")
    with holding(folder):
        sides = sides_of(folders.methods_of(folder))
        outputs = _in_clusters(labelled(sides, labels, mapping_of(mapping)), sides.joined, results)
        found = _with_source(with_people(results, outputs), labels)
        from trimtab.report.render import write_report  # loads matplotlib: after what is wrong with the labels

        found.write(folder / "results.json")
        return write_report(found, folder)


def _in_clusters(outputs: StudyOutputs, joined: Joined, results: Results) -> StudyOutputs:
    """With the clusters of prompts that the results were worked out with."""
    records = list(joined.asked.values())
    settings = {setting.name.removeprefix("evaluation."): setting.value for setting in results.provenance.settings}
    column = settings.get("clusters")
    near = takes_near_duplicates(records, column)
    return replace(outputs, clusters=cluster_names(records, column), near_duplicates=near)


def _with_source(results: Results, labels: Path) -> Results:
    """Named among the settings, as if they had been there from the start."""
    named = [*results.provenance.defaults, *(setting.name for setting in results.provenance.settings)]
    of_study = any(one.startswith("evaluation.") for one in named)
    name = "evaluation.labels" if of_study else "labels"
    others = [setting for setting in results.provenance.settings if setting.name != name]
    kept = {key: value for key, value in results.provenance.defaults.items() if key != name}
    settings = [*others, Setting(name=name, value=without_secrets(str(labels)), default="null")]
    provenance = results.provenance.model_copy(update={"settings": settings, "defaults": kept})
    return results.model_copy(update={"provenance": provenance})
