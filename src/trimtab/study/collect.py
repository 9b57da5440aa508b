"""results.json from what a study's folder holds: a folder for each training seed, and what all seeds share."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trimtab import __version__
from trimtab.audit.preferences import audit
from trimtab.catalogue import CATALOGUE, compared_methods, family, label, trained_methods
from trimtab.data.chat import ChatFormat
from trimtab.data.records import Record
from trimtab.data.splits import DataSettings, Splits
from trimtab.evaluation.outputs import MethodOutputs, read_measured
from trimtab.evaluation.results import Provenance, Results, SplitCounts, StageCurves
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.files import read_json
from trimtab.methods.online_dpo import NAME, round_folders
from trimtab.methods.rounds import PAIRS
from trimtab.methods.table import METHODS
from trimtab.models.lora import hash_model
from trimtab.recipe import Recipe
from trimtab.rewards.settings_base import RewardSettings
from trimtab.study.asked import command_line, data_sources, model_sources, of_study, today
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
        """Of online_dpo every round."""
        folder = self.folder / "stages"
        places = [
            p for name in trained_methods() for p in (round_folders(folder) if name == NAME else [folder / name])
        ]
        return {path.name: path for path in places if path.is_dir()}

    def done(self) -> dict[str, Any]:
        """What each finished stage wrote down of itself, by stage."""
        return {name: _read_json(folder / "done.json") for name, folder in self.stages().items()}

    def drawn(self) -> dict[str, Any]:
        """What each round of online_dpo drew, by the round's stage."""
        files = sorted((self.folder / "stages").glob(f"{NAME}-*{PAIRS}/done.json"))
        return {file.parent.name.removesuffix(PAIRS): _read_json(file) for file in files}


def opponent_name(asked: str) -> str:
    """What the opponent is called in results: as it was asked for, unless that is also the name of something that
    stands beside it there, as of a folder called sft."""
    taken = {*compared_methods(), "model", "chosen"}
    others = {name.casefold() for one in taken for name in (one, label(one))}
    return f"opponent {asked}" if {asked.casefold(), family(asked.casefold())} & others else asked


def environment(seed: int, seeds: Sequence[int] = ()) -> dict[str, Any]:
    """Versions, device, threads and seeds of this run."""
    return {
        "versions": {"python": platform.python_version(), "trimtab": __version__}
        | {name: version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
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
    told: Sequence[str] = (),
) -> Results:
    """told: warnings of what ran just now. fixed: outputs of methods that no training seed touches; chat: of the
    model that the study starts from; data: where the rows are; models: by role, the name and place of each that the
    recipe names."""
    evaluated = evaluation_warnings(fixed, told)
    for run in runs:
        evaluated += evaluation_warnings(run.outputs, told, f", seed {run.seed}" if len(runs) > 1 else "")
    evaluated += evaluation_warnings([opponent] if opponent else [], told)
    counts = {}
    for name, folder in runs[0].stages().items():
        for split, found in _read_json(folder / "data.json").items():
            if isinstance(found, dict) and found["rows"]:
                counts[f"{name}: {split}"] = _counts(found)
    # Every test prompt that templates take is answered, whatever its completions are.
    out = splits.left_out
    counts["evaluation: test"] = SplitCounts(
        read=len(splits.test) + sum(out.values()), kept=len(splits.test), dropped=out
    )
    outputs = StudyOutputs(
        {run.seed: run.outputs for run in runs},
        fixed,
        opponent,
        chosen_texts(splits.test),
        chosen_lengths(chat, splits.test),
    )
    about = About(
        name=recipe.name,
        judge=recipe.judge.describe() if recipe.judge else None,
        training_reward=_training_reward(recipe),
        audit=audit(splits.train),
        curves={run.seed: {name: _curves(folder) for name, folder in run.stages().items()} for run in runs},
        data=counts,
        provenance=_provenance(recipe, runs, data, models),
        warnings=list(dict.fromkeys([*told, *_study_warnings(recipe, splits, runs), *evaluated])),
    )
    return summarise(outputs, about)


def _training_reward(recipe: Recipe) -> str | None:
    """What is optimised, in words; of several methods each by its own, where they differ."""
    found = {method: _reward_words(recipe, one.rewards) for method, one in recipe.rewarded.items()}
    if len(set(found.values())) <= 1:
        return next(iter(found.values()), None)
    return "; ".join(f"{method}: {words}" for method, words in found.items())


def _reward_words(recipe: Recipe, rewards: Sequence[RewardSettings]) -> str:
    """A sum of rewards; the judge's own words where it is the judge."""
    parts = []
    for one in rewards:
        text = recipe.judge.describe() if recipe.judge and one.identity == recipe.judge.identity else one.describe()
        parts.append(text if one.weight == 1 else f"{one.weight:g} × {text}")
    return " + ".join(parts)


def judged_by_a_part(recipe: Recipe) -> bool:
    """Whether the judge is some of what is optimised, but not all of it."""
    judge = recipe.judge
    if judge is None or _training_reward(recipe) == judge.describe():
        return False
    return any(one.identity == judge.identity for method in recipe.rewarded.values() for one in method.rewards)


def asked_for(recipe: Recipe, data: DataSettings, models: Mapping[str, tuple[str, str] | None]) -> dict[str, Any]:
    """What was asked, for the report."""
    changed, defaults = of_study(recipe)
    made = "the sandbox's own rows" if recipe.sandbox else None
    return {
        "command": command_line(),
        "date": today(),
        "models": model_sources(models),
        "data": data_sources(data, made),
        "settings": changed,
        "defaults": defaults,
    }


def _provenance(
    recipe: Recipe, runs: Sequence[SeedRun], data: DataSettings, models: Mapping[str, tuple[str, str] | None]
) -> Provenance:
    """Of several seeds: seconds are summed, memory is the highest."""
    known = environment(recipe.seed)
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
        versions=known["versions"],
        device=known["device"],
        seeds=[run.seed for run in runs],
        hashes=hashes,
        wall_seconds=seconds | evaluated,
        peak_memory_bytes=memory,
        decoding=recipe.evaluation.decoding.signature(),
        **asked_for(recipe, data, models),
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


def evaluation_warnings(outputs: Sequence[MethodOutputs], told: Sequence[str], seed: str = "") -> list[str]:
    """What was warned of while outputs were made, whenever that was. told: what stands in the results anyway.
    seed: what follows a name."""
    found = [(one.name, line) for one in outputs for line in one.warnings if line not in told]
    return [f"evaluation of {name}{seed}: {line}" for name, line in found]


def judge_warnings(judge: RewardSettings) -> list[str]:
    """What to know of any results by this judge."""
    if not judge.only_within_prompts:
        return []
    return [
        f"Scores of {judge.describe()} compare completions of one prompt only: a mean judge score over prompts has "
        "no meaning of its own. Read win rates and paired differences."
    ]


def _study_warnings(recipe: Recipe, splits: Splits, runs: Sequence[SeedRun]) -> list[str]:
    found = []
    if recipe.sandbox is not None:
        found.append(
            "This study ran in trimtab's sandbox, a small closed world: it measures the methods and this "
            "software, and says nothing about a real model."
        )
    caveat = METHODS["sft"].method.caveat(recipe.settings_of("sft"))
    if caveat and any("sft" in (name, CATALOGUE[name].starts_from) for name in recipe.methods):
        found.append(caveat)
    if splits.shared_prompts:
        found.append(f"{splits.shared_prompts} training rows have a prompt that is also in validation or test.")
    if splits.unreadable:
        found.append(f"{len(splits.unreadable)} rows could not be read and were dropped (data.bad_rows).")
    if splits.tested_on_validation:
        found.append("Evaluated on the validation rows, which also chose the checkpoints.")
    if recipe.judge is not None:
        found += judge_warnings(recipe.judge)
        # Where it is all of the training reward, the results say so themselves.
        if judged_by_a_part(recipe):
            found.append(
                f"The judge, {recipe.judge.describe()}, is also part of the training reward: a win rate judged by "
                "what was optimised shows little."
            )
    for run in runs:
        for name, value in run.done().items():
            who = name if len(runs) == 1 else f"{name}, seed {run.seed}"
            found += [f"{who}: {line}" for line in value.get("warnings", ())]
            if value["best_step"] == 0 and "warnings" not in value:  # of a version that kept none
                found.append(f"{who}: no evaluation was better than the model it started from, which was kept.")
            skipped = len(read_metrics(run.folder / "stages" / name / "skipped.jsonl"))
            if skipped:
                found.append(
                    f"{who}: {skipped} steps with a broken loss or gradient were not taken (skipped.jsonl)."
                )
        for name, drawn in run.drawn().items():
            found += [f"{name}: {line}" for line in drawn.get("warnings", ())]
            if 2 * drawn["pairs"] < drawn["prompts"]:
                why = ", ".join(f"{reason}: {count}" for reason, count in drawn["unpaired"].items())
                found.append(f"{name}: {drawn['pairs']} of {drawn['prompts']} prompts gave a pair ({why}).")
    return found


def _counts(found: Mapping[str, Any]) -> SplitCounts:
    truncated = {"completion cut at the end": found["truncated"]} if found["truncated"] else {}
    return SplitCounts(read=found["rows"], kept=found["used"], dropped=found["dropped"], truncated=truncated)


def _curves(folder: Path) -> StageCurves:
    rows = read_metrics(folder / "metrics.jsonl")
    return StageCurves(
        train=[row for row in rows if "loss" in row],
        validation=[row for row in rows if any(key.startswith("eval_") for key in row)],
    )


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, f"Put it back, or remove {path.parent}, and the same command makes it anew.")
