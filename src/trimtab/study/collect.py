"""results.json from what a study's folder holds: a folder for each training seed, and what all seeds share."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from trimtab import __version__
from trimtab.audit.preferences import audit
from trimtab.catalogue import compared_methods, family, label, trained_methods
from trimtab.data.chat import ChatFormat
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings, Splits
from trimtab.devices import best_device, name_of
from trimtab.evaluation.instruction_accuracy import asked_of
from trimtab.evaluation.judge_card import STUDY_MODELS, THE_OPPONENT, relatives_of
from trimtab.evaluation.judge_probes import Probe
from trimtab.evaluation.outputs import MethodOutputs, read_measured
from trimtab.evaluation.results import Provenance, Results, SplitCounts, StageCurves
from trimtab.evaluation.row_columns import cluster_names, difficulties, takes_near_duplicates
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.files import read_json
from trimtab.json_types import JsonObject
from trimtab.methods.online_dpo import NAME, round_folders
from trimtab.methods.rounds import PAIRS
from trimtab.methods.table import METHODS
from trimtab.models.lora import hash_model
from trimtab.readers.votes import with_labels
from trimtab.recipe import Recipe
from trimtab.rewards.settings_base import RewardSettings
from trimtab.study.provenance import command_line, data_sources, model_sources, study_settings, today
from trimtab.study.second_judges import second_judges_of
from trimtab.training.metrics import read_metrics

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "sacrebleu")


@dataclass(frozen=True)
class SeedRun:
    """What one training seed gave: its folder (seed-S), the folders of its models, and their outputs."""

    seed: int
    folder: Path
    models: Mapping[str, str]
    outputs: Sequence[MethodOutputs]

    def stages(self) -> dict[str, Path]:
        """The folders of the stages that have begun, by stage; online_dpo has one for each round."""
        folder = self.folder / "stages"
        places = [
            p for name in trained_methods() for p in (round_folders(folder) if name == NAME else [folder / name])
        ]
        return {path.name: path for path in places if path.is_dir()}

    def done(self) -> JsonObject:
        """What each finished stage wrote down of itself, by stage."""
        return {name: _read_json(folder / "done.json") for name, folder in self.stages().items()}

    def drawn(self) -> JsonObject:
        """What each round of online_dpo drew, by the round's stage."""
        files = sorted((self.folder / "stages").glob(f"{NAME}-*{PAIRS}/done.json"))
        return {file.parent.name.removesuffix(PAIRS): _read_json(file) for file in files}


def opponent_name(asked: str) -> str:
    """What the opponent is called in results: as it was asked for, unless that is also the name of something that
    stands beside it there, as of a folder called sft."""
    taken = {*compared_methods(), "model", "chosen"}
    others = {name.casefold() for method in taken for name in (method, label(method))}
    return f"opponent {asked}" if {asked.casefold(), family(asked.casefold())} & others else asked


def environment(seed: int, seeds: Sequence[int] = ()) -> JsonObject:
    """Versions, device, threads and seeds of this run."""
    return {
        "versions": {"python": platform.python_version(), "trimtab": __version__}
        | {name: version(name) for name in LIBRARIES},
        "device": name_of(best_device()),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "seeds": list(seeds) or [seed],
    }


def collect_results(
    recipe: Recipe,
    chat: ChatFormat,
    splits: Splits,
    runs: Sequence[SeedRun],
    fixed: Sequence[MethodOutputs],
    opponent: MethodOutputs | None,
    data: DataSettings,
    models: Mapping[str, tuple[str, str] | None],
    run_warnings: Sequence[str] = (),
    probes: Sequence[Probe] = (),
) -> Results:
    """Puts together a study's results.

    run_warnings: of what ran just now. fixed: outputs of methods that no training seed touches; chat: of the
    model that the study starts from; data: where the rows are; models: by role, the name and place of each that the
    recipe names. probes: what the judge said when it was asked again.
    """
    evaluated = evaluation_warnings(fixed, run_warnings)
    for run in runs:
        evaluated += evaluation_warnings(run.outputs, run_warnings, f", seed {run.seed}" if len(runs) > 1 else "")
    evaluated += evaluation_warnings([opponent] if opponent else [], run_warnings)
    counts = {}
    for name, folder in runs[0].stages().items():
        for split, entry in splits_in(_read_json(folder / "data.json")).items():
            counts[f"{name}: {split}"] = _counts(entry)
    # Every test prompt that templates take is answered, whatever its completions are.
    out = splits.left_out
    counts["evaluation: test"] = SplitCounts(
        read=len(splits.test) + sum(out.values()), kept=len(splits.test), dropped=out
    )
    asked, unchecked = asked_of(splits.test)
    answered = StudyOutputs(
        {run.seed: run.outputs for run in runs},
        fixed,
        opponent,
        chosen_texts(splits.test),
        chosen_lengths(chat, splits.test),
        asked,
        cluster_names(splits.test, recipe.evaluation.clusters),
        difficulties(splits.test, recipe.evaluation.difficulty),
        probes=probes,
        near_duplicates=takes_near_duplicates(splits.test, recipe.evaluation.clusters),
    )
    outputs = with_labels(answered, recipe.evaluation.labels)
    named = {STUDY_MODELS: recipe.model, THE_OPPONENT: recipe.opponent or ""}
    about = About(
        name=recipe.name,
        judge=recipe.judge.describe() if recipe.judge else None,
        training_reward=_training_reward(recipe),
        audit=audit(splits.train),
        curves={run.seed: {name: _curves(folder) for name, folder in run.stages().items()} for run in runs},
        data=counts,
        began_at={name: "base" for name in recipe.methods if recipe.starts_from.get(name) == "base"},
        provenance=_provenance(recipe, runs, data, models),
        relatives=relatives_of(recipe.judge.model_names if recipe.judge else (), named),
        second_judges=second_judges_of(recipe, runs[0].folder),
        warnings=list(
            dict.fromkeys(
                [*run_warnings, *_study_warnings(recipe, splits, runs), *evaluated, *filter(None, [unchecked])]
            )
        ),
    )
    return summarise(outputs, about)


def _training_reward(recipe: Recipe) -> str | None:
    """What is optimised, in words; of several methods each by its own, where they differ."""
    described = {
        method: _describe_rewards(recipe, settings.rewards) for method, settings in recipe.rewarded.items()
    }
    if len(set(described.values())) <= 1:
        return next(iter(described.values()), None)
    return "; ".join(f"{method}: {text}" for method, text in described.items())


def _describe_rewards(recipe: Recipe, rewards: Sequence[RewardSettings]) -> str:
    """A sum of rewards; the judge's own words where it is the judge."""
    parts = []
    for reward in rewards:
        is_judge = recipe.judge is not None and reward.identity == recipe.judge.identity
        text = recipe.judge.describe() if recipe.judge and is_judge else reward.describe()
        parts.append(text if reward.weight == 1 else f"{reward.weight:g} × {text}")
    return " + ".join(parts)


def judged_by_a_part(recipe: Recipe) -> bool:
    """Whether the judge is some of what is optimised, but not all of it."""
    judge = recipe.judge
    if judge is None or _training_reward(recipe) == judge.describe():
        return False
    return any(
        reward.identity == judge.identity for method in recipe.rewarded.values() for reward in method.rewards
    )


def provenance_fields(
    recipe: Recipe, data: DataSettings, models: Mapping[str, tuple[str, str] | None]
) -> JsonObject:
    """What the report says the study was asked to do: command, date, models, data and settings."""
    changed, defaults = study_settings(recipe)
    data_name = "the sandbox's own rows" if recipe.sandbox else None
    return {
        "command": command_line(),
        "date": today(),
        "models": model_sources(models),
        "data": data_sources(data, data_name, recipe.prompts),
        "settings": changed,
        "defaults": defaults,
    }


def _provenance(
    recipe: Recipe, runs: Sequence[SeedRun], data: DataSettings, models: Mapping[str, tuple[str, str] | None]
) -> Provenance:
    """Of several seeds: seconds are summed, memory is the highest."""
    current = environment(recipe.seed)
    hashes: dict[str, str] = {}
    seconds: dict[str, float | None] = {}
    evaluated: dict[str, float] = {}
    memory: dict[str, int | None] = {}
    for run in runs:
        for name, model in run.models.items():
            alone = len(runs) == 1 or name == "base"
            hashes[name if alone else f"{name}, seed {run.seed}"] = hash_model(model)
        for name, value in run.done().items():
            seconds[name] = (seconds.get(name) or 0.0) + value["seconds"]
            peaks = [p for p in (memory.get(name), value["peak_memory_bytes"]) if p is not None]
            memory[name] = max(peaks, default=None)
        for name, drawn in run.drawn().items():
            key, spent = f"samples of {name}", drawn["sampling_seconds"] + drawn["scoring_seconds"]
            seconds[key] = (seconds.get(key) or 0.0) + spent
        for file in sorted((run.folder / "evaluation").glob("*/measures.json")):
            measured = read_measured(file.parent)
            key = f"evaluation of {file.parent.name}"
            evaluated[key] = evaluated.get(key, 0.0) + measured.seconds
    return Provenance(
        versions=current["versions"],
        device=current["device"],
        seeds=[run.seed for run in runs],
        hashes=hashes,
        wall_seconds=seconds | evaluated,
        peak_memory_bytes=memory,
        decoding=recipe.evaluation.decoding.signature(),
        **provenance_fields(recipe, data, models),
    )


def chosen_texts(records: Sequence[Record]) -> list[str]:
    """The chosen completions; none where a prompt has none."""
    return [r.completions[0] for r in records] if _have_chosen(records) else []


def _have_chosen(records: Sequence[Record]) -> bool:
    """Whether every prompt has an answer to compare with: one with KTO's label may be the undesirable one."""
    return all(record.completions and not record.is_unpaired for record in records)


def chosen_lengths(chat: ChatFormat, records: Sequence[Record]) -> list[int]:
    """Tokens of each chosen completion, end of turn included, before any truncation; none where one is missing."""
    if not _have_chosen(records):
        return []
    return [len(chat.completion_ids(r.prompt, r.completions[0], chat.prompt_ids(r.prompt))) for r in records]


def evaluation_warnings(outputs: Sequence[MethodOutputs], run_warnings: Sequence[str], seed: str = "") -> list[str]:
    """The warnings of the time when outputs were made, whenever that was.

    run_warnings: what stands in the results anyway.
    seed: what follows a name."""
    return [
        f"evaluation of {model.name}{seed}: {line}"
        for model in outputs
        for line in model.warnings
        if line not in run_warnings
    ]


def judge_warnings(judge: RewardSettings) -> list[str]:
    """What to know of any results by this judge."""
    if not judge.only_within_prompts:
        return []
    return [
        f"Scores of {judge.describe()} compare completions of one prompt only: a mean judge score over prompts has "
        "no meaning of its own. Read win rates and paired differences."
    ]


def _study_warnings(recipe: Recipe, splits: Splits, runs: Sequence[SeedRun]) -> list[str]:
    warnings = []
    if recipe.sandbox is not None:
        warnings.append(
            "This study ran in trimtab's sandbox, a small closed world: it measures the methods and this "
            "software, and says nothing about a real model."
        )
    caveat = METHODS["sft"].method.caveat(recipe.settings_of("sft"))
    if caveat and any("sft" in (name, recipe.start_of(name)) for name in recipe.methods):
        warnings.append(caveat)
    if splits.shared_prompts:
        warnings.append(f"{splits.shared_prompts} training rows have a prompt that is also in validation or test.")
    if splits.unreadable:
        warnings.append(f"{len(splits.unreadable)} rows could not be read and were dropped (data.bad_rows).")
    if splits.tested_on_validation:
        warnings.append("Evaluated on the validation rows, which also chose the checkpoints.")
    if recipe.judge is not None:
        warnings += judge_warnings(recipe.judge)
        # Where it is all of the training reward, the results say so themselves.
        if judged_by_a_part(recipe):
            warnings.append(
                f"The judge, {recipe.judge.describe()}, is also part of the training reward: a win rate judged by "
                "what was optimised shows little."
            )
    for run in runs:
        for name, value in run.done().items():
            who = name if len(runs) == 1 else f"{name}, seed {run.seed}"
            warnings += [f"{who}: {line}" for line in value.get("warnings", ())]
            if value["best_step"] == 0 and "warnings" not in value:  # of a version that kept none
                warnings.append(f"{who}: no evaluation was better than the model it started from, which was kept.")
            skipped = len(read_metrics(run.folder / "stages" / name / "skipped.jsonl"))
            if skipped:
                warnings.append(
                    f"{who}: {skipped} steps with a broken loss or gradient were not taken (skipped.jsonl)."
                )
        for name, drawn in run.drawn().items():
            warnings += [f"{name}: {line}" for line in drawn.get("warnings", ())]
            if 2 * drawn["pairs"] < drawn["prompts"]:
                why = ", ".join(f"{reason}: {count}" for reason, count in drawn["unpaired"].items())
                warnings.append(f"{name}: {drawn['pairs']} of {drawn['prompts']} prompts gave a pair ({why}).")
    return warnings


def splits_in(data: JsonObject) -> dict[str, JsonObject]:
    """What a stage's data.json says of each split that has rows. Other entries are of all of them, as the values
    that `split_by` went by."""
    return {name: entry for name, entry in data.items() if isinstance(entry, dict) and entry.get("rows")}


def _counts(split: JsonObject) -> SplitCounts:
    """What became of a split's rows. split: its entry in data.json."""
    truncated = {"completion cut at the end": split["truncated"]} if split["truncated"] else {}
    return SplitCounts(read=split["rows"], kept=split["used"], dropped=split["dropped"], truncated=truncated)


def _curves(folder: Path) -> StageCurves:
    rows = read_metrics(folder / "metrics.jsonl")
    return StageCurves(
        train=[row for row in rows if "loss" in row],
        validation=[row for row in rows if any(key.startswith("eval_") for key in row)],
    )


def _read_json(path: Path) -> JsonObject:
    return read_json(path, f"Put it back, or remove {path.parent}, and the same command makes it anew.")
