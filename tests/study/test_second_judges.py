"""Judges beside the judge: they score the same completions, and nothing follows from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.toy import write_model, write_plain_pairs
from trimtab.data.parsing import parse
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.plan.estimate import make_plan
from trimtab.recipe import Recipe
from trimtab.study.run import run_study

STAGE = {"batch_size": 2, "max_steps": 2, "evaluation_interval": 2, "logging_interval": 1, "learning_rate": 1e-1}
FUNCTIONS = """
def liked(prompts, completions, **kwargs):
    return [sum(map(ord, completion)) % 101 for completion in completions]

def disliked(prompts, completions, **kwargs):
    open(__file__ + ".calls", "a").write(".")
    return [-(sum(map(ord, completion)) % 101) for completion in completions]
"""


def recipe(folder: Path, **changes: Any) -> Recipe:
    """Beside the judge stand one that says the opposite, and a reward model trained on other pairs."""
    if not (folder / "score.py").is_file():
        write_model(folder / "model")
        write_plain_pairs(folder / "pairs.jsonl", 16)
        write_plain_pairs(folder / "other.jsonl", 12)
        (folder / "score.py").write_text(FUNCTIONS)
    value = {
        "name": "second",
        "model": str(folder / "model"),
        "opponent": str(folder / "model"),
        "methods": ["base", "dpo"],
        "starts_from": {"dpo": "base", "reward": "base"},
        "judge": {"kind": "function", "path": f"{folder / 'score.py'}:liked"},
        "second_judges": [
            {"kind": "function", "path": f"{folder / 'score.py'}:disliked", "name": "contrary"},
            {"kind": "trained"},
        ],
        "data": {"train": str(folder / "pairs.jsonl"), "validation_rows": 4, "test_rows": 6},
        "reward_data": {"train": str(folder / "other.jsonl"), "validation_rows": 5},
        "dpo": {**STAGE, "best_metric": "step", "best_is": "highest"},
        "reward": STAGE,
        "evaluation": {"decoding": {"strategy": "sample", "max_new_tokens": 8, "temperature": 1.5}},
        **changes,
    }
    return parse(Recipe, value, "test")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("second")
    return folder, run_study(recipe(folder), folder / "run", seeds=[3, 4], workers=1)


def _scores(folder: Path, file: str) -> list[float]:
    return [json.loads(line)["score"] for line in (folder / file).read_text().splitlines()]


def test_a_second_judge_scores_the_same_completions(done: tuple[Path, Results]) -> None:
    folder, results = done
    assert [judge.name for judge in results.second_judges] == ["contrary", "trained"]
    base = folder / "run" / "seed-3" / "evaluation" / "base"
    for judge in results.second_judges:
        file = f"scores_by_{judge.name}.jsonl"
        against = _scores(base, file)
        wins = [
            1.0 if own > other else 0.5 if own == other else 0.0
            for seed in (3, 4)
            for own, other in zip(
                _scores(folder / "run" / f"seed-{seed}" / "evaluation" / "dpo", file), against, strict=True
            )
        ]
        assert judge.estimates["dpo"]["win_rate"].value == pytest.approx(sum(wins) / len(wins))
        assert set(judge.estimates["base"]) == {"judge_score"}  # it is the opponent itself
        [compared] = [c for c in judge.comparisons if c.metric == "win_rate"]
        assert compared.difference == pytest.approx(sum(wins) / len(wins) - 0.5)


def test_the_contrary_judge_says_the_opposite(done: tuple[Path, Results]) -> None:
    results = done[1]
    contrary = results.second_judges[0].estimates["dpo"]["win_rate"].value
    assert contrary != 0.5
    assert contrary == pytest.approx(1 - results.methods["dpo"].estimates["win_rate"].value)
    assert "contrary" not in " ".join(results.verdict)


def test_the_reward_model_learns_from_rows_of_its_own_once(done: tuple[Path, Results]) -> None:
    folder, results = done
    stages = folder / "run" / "seed-3" / "stages"
    counts = json.loads((stages / "reward" / "data.json").read_text())
    assert (counts["train"]["rows"], counts["validation"]["rows"]) == (7, 5)
    assert not (folder / "run" / "seed-4" / "stages" / "reward").exists()
    trained = results.second_judges[1]
    assert trained.accuracy is not None
    assert round(trained.accuracy * 5) == pytest.approx(trained.accuracy * 5)
    assert trained.judge == "a reward model trained in this study, on preferences of its own"
    assert not trained.optimised


def test_the_page_shows_them(done: tuple[Path, Results]) -> None:
    page = (done[0] / "run" / "report.html").read_text()
    assert "Second judges" in page
    assert "preferences of its own" in page
    assert (done[0] / "run" / "tables" / "second_judge_pairs.csv").is_file()


def test_nothing_is_scored_twice(done: tuple[Path, Results]) -> None:
    folder, results = done
    calls = folder / "score.py.calls"
    before = calls.read_text()
    again = run_study(recipe(folder), folder / "run", workers=1)
    assert again.second_judges == results.second_judges
    assert calls.read_text() == before


@pytest.mark.slow
def test_two_processes_give_the_same(done: tuple[Path, Results]) -> None:
    """A process gets all rows of their own, and knows whose reward model judges."""
    folder, results = done
    other = run_study(recipe(folder), folder / "two", seeds=[3, 4], workers=2)
    assert other.second_judges == results.second_judges
    assert not (folder / "two" / "seed-4" / "stages" / "reward").exists()


def test_scores_that_it_could_not_give_are_counted(done: tuple[Path, Results]) -> None:
    """Of base, which is the opponent, and one method of six prompts each, those of one prompt."""
    folder = done[0]
    asked = folder / "run" / "seed-3" / "evaluation" / "base" / "generations.jsonl"
    prompt = json.loads(asked.read_text().splitlines()[0])["prompt"]
    code = (
        f"def reward(prompts, completions, **_):\n    return [None if p == {prompt!r} else 1.0 for p in prompts]\n"
    )
    (folder / "picky.py").write_text(code)
    judge = {"kind": "function", "path": f"{folder / 'picky.py'}:reward", "name": "picky"}
    found = run_study(
        recipe(folder, second_judges=[judge], reward_data=None), folder / "picky", seeds=[3], workers=1
    )
    [picky] = found.second_judges
    assert (picky.missing, picky.asked) == (2, 12)
    assert "2 of its 12 scores are missing" in (folder / "picky" / "report.html").read_text()


def test_a_plan_counts_them(done: tuple[Path, Results]) -> None:
    plan = make_plan(recipe(done[0]), measured=False)
    assert [call.scored_by for call in plan.calls] == [
        "the judge",
        "the second judge contrary",
        "the second judge trained",
    ]
    assert [stage.work.name for stage in plan.stages] == ["dpo", "reward"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"second_judges": ()}, "reward_data: no reward model is trained"),
        ({"judge": None, "opponent": None}, "second_judges need an opponent"),
        ({"second_judges": [{"kind": "gold"}]}, "knows the sandbox's world only"),
        ({"judge": {"kind": "trained"}}, "it is what is optimised"),
    ],
)
def test_what_cannot_judge_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(TrimtabError, match=told):
        recipe(tmp_path, **changes)
