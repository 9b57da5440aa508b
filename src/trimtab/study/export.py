"""A finished model as a folder of its own: weights, tokenizer, configs and a model card; nothing of trimtab's.

Files are copied, byte for byte. LoRA's adapter stays behind: the weights in best/ hold it already.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.data.tokenizer import TEMPLATES
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.files import write_directory, write_text
from trimtab.folder_lock import holding
from trimtab.methods.online_dpo import NAME, round_folders
from trimtab.methods.rounds import PAIRS
from trimtab.report.card import results_section
from trimtab.study.asked import check_exported
from trimtab.training.card import CARD, LIMITS, stage_card
from trimtab.training.folder import changed_model

NEEDED = ("config.json", "tokenizer_config.json")


def export_model(
    folder: Path,
    out: Path,
    method: str | None = None,
    seed: int | None = None,
    gguf: Sequence[str] = (),
    measure_gguf: bool = True,
) -> Path:
    """Writes `out` from a stage's folder (or its best/), or from a study's folder and a method.

    gguf: kinds of GGUF files to write beside the weights, such as q8_0. measure_gguf: whether they are compared
    with the model. TrimtabError where the stage is not finished, the study has no such method or several seeds, or
    `out` holds something.
    """
    out = out.absolute()  # "." has no name to write aside under
    stage, study = _stage_of(folder, method, seed)
    best = stage / "best"
    if not (stage / "done.json").is_file():
        raise TrimtabError(f"{stage}: not a finished stage. The command that started it finishes it.")
    missing = [name for name in NEEDED if not (best / name).is_file()]
    if not any(best.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise TrimtabError(f"{best}: lacks {', '.join(missing)}; it is no whole model. Train the stage again.")
    if wrong := changed_model(str(best)):
        raise TrimtabError(f"{wrong}: it is not the model that was trained. Put it back, or train the stage again.")
    check_exported(folder, out)
    results = _results(study, _method_of(stage)) if study else ""
    if gguf:  # what is imported there evaluates, and imports this file in turn
        from trimtab.study.gguf import Origin, check_kinds, write_files

        gguf = check_kinds(gguf)

    def write(target: Path) -> None:
        for file in sorted(best.iterdir()):
            if file.is_file() and file.name != CARD:
                shutil.copyfile(file, target / file.name)
        if (best / TEMPLATES).is_dir():  # a tokenizer's other chat templates
            shutil.copytree(best / TEMPLATES, target / TEMPLATES)
        card = stage_card(stage, results=results)
        if gguf:
            files = write_files(Origin(stage, study, _method_of(stage)), target, out.name, gguf, measure_gguf)
            card = card.replace(LIMITS, f"{files}\n{LIMITS}")
        (target / CARD).write_text(card, encoding="utf-8")

    with holding(out, beside=True):
        write_directory(out, write)
    return out


def write_cards(results: Results, stages: Mapping[str, Path]) -> None:
    """Puts a study's results into the cards of its models. No stage's hash depends on a card."""
    for stage in stages.values():
        if (stage / "best").is_dir():
            section, file = results_section(results, _method_of(stage)), stage / "best" / CARD
            card = stage_card(stage, results=section)
            if not file.is_file() or file.read_text(encoding="utf-8") != card:
                write_text(file, card)


def _results(study: Path, method: str) -> str:
    file = study / "results.json"
    return results_section(Results.read(file), method) if file.is_file() else ""


def _stage_of(folder: Path, method: str | None, seed: int | None) -> tuple[Path, Path | None]:
    """The stage's folder, and its study's where it has one."""
    if folder.name == "best" and (folder.parent / "stage.json").is_file():
        folder = folder.parent
    if (folder / "stage.json").is_file():
        if method is not None or seed is not None:
            raise TrimtabError(f"{folder}: is one stage; --method and --seed choose among a study's.")
        study = folder.resolve().parents[2] if len(folder.resolve().parents) > 2 else None
        return folder, study if study and (study / "recipe.yaml").is_file() else None
    seeds = sorted(path for path in folder.glob("seed-*") if path.is_dir())
    if not (folder / "recipe.yaml").is_file() or not seeds:
        raise TrimtabError(f"{folder}: neither a stage's folder nor a study's that has begun.")
    chosen = [path for path in seeds if seed is None or path.name == f"seed-{seed}"]
    if len(chosen) != 1:
        trained_seeds = ", ".join(path.name.removeprefix("seed-") for path in seeds)
        raise TrimtabError(f"{folder}: name one training seed with --seed. It has: {trained_seeds}.")
    stages = chosen[0] / "stages"
    folders = [path for path in sorted(stages.glob("*")) if path.is_dir()]
    trained = {path.name: path for path in folders if not path.name.endswith(PAIRS)}
    if rounds := round_folders(stages):
        trained[NAME] = rounds[-1]
    if method not in trained:
        raise TrimtabError(
            f"{folder}: name a trained method with --method. It has: {', '.join(trained) or 'none'}."
        )
    return trained[str(method)], folder


def _method_of(stage: Path) -> str:
    """The method whose model a stage holds. Of the rounds of online_dpo only the last was evaluated."""
    return NAME if stage in round_folders(stage.parent)[-1:] else stage.name
