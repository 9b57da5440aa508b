"""Second judges of a study: others who score the completions that the judge has scored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.data.records import Record
from trimtab.evaluation.completeness import is_complete, mark_complete
from trimtab.evaluation.measure import judged_by
from trimtab.evaluation.outputs import MethodOutputs, Score, read_generations, read_scores, write_rows
from trimtab.evaluation.results import SecondJudge
from trimtab.evaluation.scoring import score_all
from trimtab.files import read_json
from trimtab.folder_lock import holding
from trimtab.notices import collected
from trimtab.progress import Progress
from trimtab.recipe import Recipe
from trimtab.rewards.base import Reward
from trimtab.rewards.remote import RemoteReward
from trimtab.rewards.settings import named_apart
from trimtab.rewards.settings_base import RewardSettings
from trimtab.training.metrics import read_metrics


def ask_second_judges(
    judges: Mapping[str, Reward], test: Sequence[Record], outputs: Mapping[Path, MethodOutputs]
) -> None:
    """Gives every method its scores by each second judge. judges: by name. outputs: by the folder of their
    evaluation, which keeps the scores: what is there already is not done again."""
    for name, judge in judges.items():
        for folder, of_method in outputs.items():
            with holding(folder), collected():  # what is missing stands in the results
                of_method.second_scores[name] = _scores(judge, name, test, folder)


def second_judges_of(recipe: Recipe, folder: Path) -> list[SecondJudge]:
    """The recipe's second judges, in words, before their numbers are known. folder: of the training seed whose
    reward model is one of them."""
    return [
        SecondJudge(
            name=name,
            judge=_in_words(recipe, judge),
            optimised=_is_optimised(recipe, judge),
            accuracy=_accuracy(folder / "stages" / "reward") if judge.needs_training else None,
        )
        for name, judge in named_apart(recipe.second_judges).items()
    ]


def _scores(judge: Reward, name: str, test: Sequence[Record], folder: Path) -> list[Score]:
    stem = "scores_by_" + re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    file, mark = folder / f"{stem}.jsonl", folder / f"{stem}.json"
    inputs = {
        "generations": hashlib.sha256((folder / "generations.jsonl").read_bytes()).hexdigest(),
        "judge": judged_by(judge, test),
    }
    kept = read_scores(file) if is_complete(mark, inputs) else None
    if kept is None or (isinstance(judge, RemoteReward) and any(score.score is None for score in kept)):
        with Progress(f"scores by {name}", None):
            kept = score_all(judge, test, read_generations(folder / "generations.jsonl"))
        mark.unlink(missing_ok=True)
        write_rows(file, kept)
        mark_complete(mark, inputs, [file.name], {})
    return kept


def _in_words(recipe: Recipe, judge: RewardSettings) -> str:
    if judge.needs_training and recipe.reward_data is not None:
        return "a reward model trained in this study, on preferences of its own"
    return judge.describe()


def _is_optimised(recipe: Recipe, judge: RewardSettings) -> bool:
    return any(
        reward.identity == judge.identity for method in recipe.rewarded.values() for reward in method.rewards
    )


def _accuracy(stage: Path) -> float | None:
    """Of the reward model, on the held-out pairs of its rows, at the weights that were kept."""
    best = read_json(stage / "done.json", f"Remove {stage}.")["best_step"]
    rows = [row for row in read_metrics(stage / "metrics.jsonl") if row.get("step") == best]
    found = [row["eval_accuracy"] for row in rows if "eval_accuracy" in row]
    return float(found[-1]) if found else None
