"""A search in the sandbox: trials are killed, taken over and measured, and the best is set on fresh prompts."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import Commands
from study.test_workers import STAGE
from study.test_workers import recipe as study_recipe
from training.toy import write_model
from trimtab.data.splits import DataSettings, Splits
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.recipe_spaces import TuneSettings, spaces_in
from trimtab.study.run import StudyRows
from trimtab.tune import search as searching
from trimtab.tune.ending import Tried, tried_of
from trimtab.tune.search import PrunedError, Pruning, bench_of, drawn, in_words, open_study, stored
from trimtab.tune.trial import SHARED, Bench


def recipe(model: Path, **changes: Any) -> dict[str, Any]:
    spaces = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "beta": [0.05, 0.1, 0.3]}
    tune = {"trials": 4, "objectives": {"judge_score": "highest", "length": "lowest"}}
    return study_recipe(model, methods=["sft", "dpo"], dpo=STAGE | spaces, tune=tune) | changes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tune") / "model")


@pytest.fixture(scope="module")
def file(model: Path) -> Path:
    path = model.parent / "small.yaml"
    path.write_text(yaml.safe_dump(recipe(model)))
    return path


@pytest.mark.slow
def test_a_search_that_was_killed(file: Path, tmp_path: Path, commands: Commands) -> None:
    """A process dies in its second trial. Another goes on with that one and makes the rest; SFT is trained once."""
    out = tmp_path / "search"
    words = ["tune", str(file), "--out", str(out)]
    killed = commands.run(*words, moment="step", count=5)  # 2 of SFT, 2 of the first trial
    assert killed.returncode == -9, killed.stderr
    begun = sorted(path.name for path in (out / "trials").iterdir() if path.is_dir() and path.name[0] != ".")
    assert len(begun) == 2
    done = commands.run(*words)
    assert done.returncode == 0, done.stderr
    assert "sft: 2/2" not in done.stderr, "what no space touches is trained once, for all"
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert 1 <= len(rows) <= 4
    folders = {path.name for path in (out / "trials").iterdir() if path.is_dir() and path.name[0] != "."}
    assert set(begun) <= folders
    for folder in begun:
        assert (out / "trials" / folder / "seed-0" / "stages" / "dpo" / "done.json").is_file()
        assert not (out / "trials" / folder / "seed-0" / "stages" / "sft").exists()
    assert (out / SHARED / "seed-0" / "stages" / "sft" / "done.json").is_file()
    found = json.loads((out / "found.json").read_text())
    assert set(found["values"]) == {"dpo.learning_rate", "dpo.beta"}
    results = Results.read(out / "results.json")
    assert set(results.methods) <= {"found", "the recipe's own values"}
    assert "The search flattered it by" in done.stdout
    assert (out / "figures" / "trials.svg").read_text().count("<svg") == 1
    again = commands.run(*words)
    assert again.returncode == 0
    assert again.stdout == done.stdout
    other = commands.run(*words, "--set", "dpo.batch_size=2")
    assert other.returncode == 1
    assert "holds another search" in other.stderr
    more = commands.run(*words, "--trials", "5")
    assert more.returncode == 0, more.stderr


@pytest.mark.slow
def test_two_processes_share_a_search_and_one_is_killed(file: Path, tmp_path: Path, commands: Commands) -> None:
    """The other makes the rest, with the trial that was begun; none is made twice."""
    out, others = tmp_path / "search", Commands(tmp_path / "others")
    words = ["tune", str(file), "--out", str(out), "--trials", "6", "--set", "tune.sampler=random"]
    dying = others.start(*words, moment="step", count=3)  # 2 steps of SFT or of a trial, 1 of the next
    done = commands.run(*words)
    assert dying.wait().returncode == -9
    others.close()
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert len(rows) == len({row["dpo.learning_rate"] for row in rows}) == 6
    assert len([path for path in (out / "trials").iterdir() if path.is_dir()]) == 6
    journal = (out / searching.JOURNAL).read_text().splitlines()
    assert sum("instead_of" in line for line in journal) == 1


def test_another_process_is_taken_over_when_it_is_dead(model: Path, tmp_path: Path) -> None:
    """Not while it waits: for the folder of its values, which another drew as well, or for its machine to wake."""
    bench = a_bench(model, tmp_path)
    study = open_study(bench)
    trial = study.ask()
    values = searching.proposed(bench, study, trial)
    hold = "import sys; from pathlib import Path; from trimtab.folder_lock import holding\n"
    hold += "with holding(Path(sys.argv[1]), beside=True): print('held', flush=True); sys.stdin.read()"
    place = str(tmp_path / "trials" / f"trial-{trial.number}")
    other = subprocess.Popen(
        [sys.executable, "-c", hold, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    searching.take_over(bench, study)
    assert [one.state.name for one in study.trials] == ["RUNNING"]
    other.kill()
    other.wait()
    searching.take_over(bench, study)
    assert [one.state.name for one in study.trials] == ["FAIL", "WAITING"]
    assert searching.proposed(bench, study, study.ask()) == values
    assert [one.number for one in searching.trials_of(study)] == [1]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_no_two_processes_propose_the_same(model: Path, tmp_path: Path, sampler: str) -> None:
    """Nor does a search that goes on begin its draws anew: it proposes what an undisturbed one does."""
    tune = {"trials": 9, "sampler": sampler}
    for name in ("together", "alone"):
        (tmp_path / name).mkdir()
    together = a_bench(model, tmp_path / "together", tune=tune)
    two = [open_study(together), open_study(together)]
    begun = [(study, study.ask()) for study in (*two, *two)]
    proposals = [searching.proposed(together, study, trial) for study, trial in begun]
    assert len({values["dpo.learning_rate"] for values in proposals}) == 4
    for (study, trial), score in zip(begun, (0.1, 0.2, 0.3, 0.4), strict=True):
        study.tell(trial, score)
    alone = a_bench(model, tmp_path / "alone", tune=tune)
    undisturbed = open_study(alone)
    for score in (0.1, 0.2, 0.3, 0.4):
        trial = undisturbed.ask()
        searching.proposed(alone, undisturbed, trial)
        undisturbed.tell(trial, score)
    assert [one.params for one in undisturbed.trials] == [one.params for one in two[0].trials]
    resumed = open_study(together)
    assert searching.proposed(together, resumed, resumed.ask()) == searching.proposed(
        alone, undisturbed, undisturbed.ask()
    )


def a_bench(model: Path, out: Path, **changes: Any) -> Bench:
    value = recipe(model, **changes)
    settings = TuneSettings.model_validate(value["tune"])
    return Bench(value, settings, spaces_in(value, "r"), "dpo", out, None, None, None)  # type: ignore[arg-type]


def test_values_come_back_as_they_were_proposed(model: Path, tmp_path: Path) -> None:
    value = recipe(
        model, dpo=STAGE | {"batch_size": {"low": 2, "high": 8}, "lora": {"rank": [4, 8]}, "patience": [None, 3]}
    )
    bench = Bench(value, TuneSettings(), spaces_in(value, "r"), "dpo", tmp_path, None, None, None)  # type: ignore[arg-type]
    study = open_study(bench)
    assert open_study(bench).get_trials()[0].system_attrs["fixed_params"] == stored(bench.spaces, bench.start)
    assert len(open_study(bench).get_trials()) == 1, "the recipe's own values are there once"
    assert (
        drawn(bench.spaces, study.ask())
        == bench.start
        == {"dpo.batch_size": 5, "dpo.lora.rank": 4, "dpo.patience": None}
    )
    for _ in range(5):
        values = drawn(bench.spaces, study.ask())
        assert values["dpo.batch_size"] in range(2, 9)
        assert values["dpo.lora.rank"] in (4, 8)
        assert values["dpo.patience"] in (None, 3)
    assert bench.folder({"a": 1, "b": 2}) == bench.folder({"b": 2, "a": 1}) != bench.folder({"a": 2, "b": 1})


def test_the_best_keeps_the_constraints_and_the_front_is_not_beaten(model: Path, tmp_path: Path) -> None:
    """(win rate high, length low, within a bound), by hand: the third is best within the bound."""
    bench = a_bench(model, tmp_path)
    study = open_study(bench)
    told = [([0.5, 10.0], 0.0), ([0.9, 12.0], 3.0), ([0.7, 9.0], -1.0), ([0.6, 8.0], -1.0), ([0.6, 11.0], -1.0)]
    for number, (values, slack) in enumerate(told):
        trial = study.ask()
        trial.set_user_attr("values", json.dumps({"dpo.beta": number}))
        trial.set_user_attr("estimate", json.dumps({"value": values[0]}))
        trial.set_user_attr("slack", [slack])
        study.tell(trial, values)
    tried: list[Tried] = tried_of(bench, study)
    assert [one.number for one in tried] == [2, 3, 4, 0, 1]
    assert [one.number for one in tried if one.front] == [2, 3, 1]
    assert [one.feasible for one in tried] == [True, True, True, True, False]


def test_a_trial_below_the_median_is_stopped(model: Path, tmp_path: Path) -> None:
    bench = a_bench(model, tmp_path, tune={"trials": 9, "prune_by": "accuracy"})
    study = open_study(bench)
    for _ in range(6):
        trial = study.ask()
        for step in (0, 2):
            Pruning(trial, "eval_accuracy", 0).logged({"step": step, "eval_accuracy": 0.5 + step / 10})
        study.tell(trial, 0.5)
    worse = Pruning(study.ask(), "eval_accuracy", 0)
    worse.logged({"step": 1, "loss": 3.0})
    with pytest.raises(PrunedError):
        worse.logged({"step": 2, "eval_accuracy": 0.4})
    better = Pruning(study.ask(), "eval_accuracy", 0)
    better.logged({"step": 2, "eval_accuracy": 0.8})
    lowest = Pruning(study.ask(), "eval_loss", 0, sign=-1)
    lowest.logged({"step": 2, "eval_loss": -0.8})
    with pytest.raises(PrunedError):
        Pruning(study.ask(), "eval_loss", 0, sign=-1).logged({"step": 2, "eval_loss": 0.8})


def test_what_inherits_from_a_stage_that_is_searched_is_not_shared(model: Path, tmp_path: Path) -> None:
    sft = STAGE | {"learning_rate": [1e-4, 1e-3]}
    rows = StudyRows(DataSettings(train="x"), Splits([]), None, None, None)  # type: ignore[arg-type]
    shared = {}
    for method, stages in (("sft_length", {"sft": sft, "dpo": STAGE}), ("dpo", {"sft": STAGE, "dpo": sft})):
        bench = a_bench(model, tmp_path, **stages)
        shared[method] = replace(bench, method=method, rows=rows).untouched
    assert shared == {"sft_length": frozenset(), "dpo": {"sft"}}


def test_a_metric_that_is_none_is_told_before_anything_is_trained(model: Path, tmp_path: Path) -> None:
    for tune in ({"objectives": {"win_rat": "highest"}}, {"constraints": {"lenght": 3}}):
        with pytest.raises(TrimtabError, match="tune: no metric is called"):
            bench_of(tmp_path / "r.yaml", recipe(model, tune=tune), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_for_both_are_needed(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    value = recipe(model, sandbox={"train_rows": 24, "validation_rows": 8, "test_rows": 0})
    with pytest.raises(TrimtabError):
        bench_of(file, value, tmp_path / "out")
    assert in_words({"dpo.learning_rate": 3.2123e-6, "dpo.beta": 0.1, "x": "linear"}) == (
        "dpo.learning_rate=3.212e-06 dpo.beta=0.1 x=linear"
    )
