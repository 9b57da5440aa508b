"""The search: Optuna proposes, and trials are trained and measured on the tuning prompts.

Several processes may run the same command on the same folder; Optuna's journal, a file, is what they share. A trial
is a folder named by its values, so that whoever draws them again goes on there. What a killed process had begun
another takes over.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import TrimtabError, first_line
from trimtab.evaluation.metrics import METRICS
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.files import make_folder, read_json, write_json
from trimtab.folder_lock import HeldError, holding, waiting_for
from trimtab.json_types import JsonObject
from trimtab.notices import say, speaking_of
from trimtab.recipe_spaces import SECTION, Choice, Space, TuneSettings, read_spaces, tuned_method, with_values
from trimtab.study.run import StudyRows, study_rows
from trimtab.study.sources import make_judge
from trimtab.study.stages import Stage
from trimtab.training.callbacks import Callback
from trimtab.tune.trial import TUNING, Bench, measured, prepare, run_trial, wanted

if TYPE_CHECKING:
    import optuna

JOURNAL = "trials.journal"
VALUES, ESTIMATE, SLACK, FAILED, INSTEAD = "values", "estimate", "slack", "failed", "instead_of"
"""What the journal says of a trial: its values as JSON, its first objective with its interval, by how
much it breaks each constraint, why it failed, and whose place it takes."""
LOOK = 1.0
"""Seconds between two looks at what others do."""


class PrunedError(Exception):
    """A trial that is not worth going on with."""


@dataclass(frozen=True)
class Pruning(Callback):
    """Reports a metric of evaluations, and ends a trial that Optuna gives up. steps_before: of stages and seeds
    that come before. sign: -1 turns the metric round, which Optuna takes to be best where the objective is."""

    trial: optuna.Trial
    metric: str
    steps_before: int
    sign: int = 1

    def logged(self, row: Mapping[str, object]) -> None:
        """See Callback.logged."""
        value = row.get(self.metric)
        if not isinstance(value, int | float):
            return
        self.trial.report(self.sign * float(value), self.steps_before + int(str(row["step"])))
        if self.trial.should_prune():
            raise PrunedError

    def ended(self) -> None:
        """See Callback.ended."""


def tuning_rows(rows: StudyRows, samples_prompts: bool) -> StudyRows:
    """The study's rows, with its validation prompts in place of its test rows. samples_prompts: whether the tuned
    method has prompts of its own. TrimtabError where there are none."""
    own = rows.sampled[1] if samples_prompts and rows.sampled is not None else rows.splits
    if not own.validation or rows.splits.tested_on_validation:
        raise TrimtabError(
            "tune measures trials on the validation rows, and the winner on the test rows: give both "
            "(data.validation_rows and data.test_rows, or shares)."
        )
    return replace(rows, splits=replace(rows.splits, test=own.validation, left_out={}))


def bench_of(path: Path, value: JsonObject, out: Path) -> Bench:
    """Reads what a search needs. TrimtabError where the folder is another search's, or something is missing."""
    settings, spaces = read_spaces(value, str(path))
    probe = Bench(value, settings, spaces, "", out, None, None, None)  # type: ignore[arg-type]
    first = with_values(value, probe.start)
    method = tuned_method(settings, spaces, list(first["methods"]), str(path))
    if unknown := [name for name in (*settings.objectives, *(settings.constraints or ())) if name not in METRICS]:
        raise TrimtabError(f"{path}: tune: no metric is called {unknown[0]!r}; there are {', '.join(METRICS)}.")
    _claim(out, value)
    recipe = replace(probe, method=method).recipe(probe.start)
    with waiting_for(out / "rows"):
        rows = study_rows(recipe, out / "rows")
    tuning = tuning_rows(rows, recipe.samples_prompts(method)).splits
    judge = make_judge(recipe.judge, out)
    return Bench(value, settings, spaces, method, out, rows, tuning, judge)


def _claim(out: Path, value: JsonObject) -> None:
    """Takes the folder for this search. How many trials there are may change."""
    file = out / "tune.json"
    asked = json.loads(json.dumps(value))
    asked[SECTION] = {k: v for k, v in (asked.get(SECTION) or {}).items() if k != "trials"}
    with waiting_for(out):
        if file.is_file():
            if read_json(file, f"Remove {out}.")["recipe"] != asked:
                raise TrimtabError(f"{out}: holds another search. Choose another --out, or remove this folder.")
            return
        if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise TrimtabError(f"{out}: is not empty, and no search of trimtab's. Choose another --out.")
        make_folder(out)
        write_json(file, {"recipe": asked})


def open_study(bench: Bench) -> optuna.Study:
    """Optuna's study in the folder's journal, its first trial the recipe's own values."""
    import optuna  # an extra, and slow

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = bench.settings
    backend = optuna.storages.journal.JournalFileBackend(str(bench.out / JOURNAL))
    with waiting_for(bench.out / "journal"):
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="tune",
            load_if_exists=True,
            directions=["maximize" if best == "highest" else "minimize" for best in settings.objectives.values()],
            sampler=_sampler(settings, 0),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5)
            if settings.prune_by
            else optuna.pruners.NopPruner(),
        )
        if not study.trials:
            study.enqueue_trial(stored(bench.spaces, bench.start), skip_if_exists=True)
    return study


def _sampler(settings: TuneSettings, number: int) -> optuna.samplers.BaseSampler:
    """number: the trial's."""
    import numpy as np
    import optuna

    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)

    def slack(trial: optuna.trial.FrozenTrial) -> Sequence[float]:
        return [float(x) for x in trial.user_attrs.get(SLACK, [0.0] * len(settings.constraints or ()))]

    return optuna.samplers.TPESampler(seed=seed, constraints_func=slack if settings.constraints else None)


def stored(spaces: Sequence[Space], values: Mapping[str, Choice]) -> dict[str, float | int | str]:
    """Values as Optuna holds them: choices as JSON, so that any may stand beside any."""
    return {
        space.path: json.dumps(values[space.path]) if space.range is None else values[space.path]  # type: ignore[misc]
        for space in spaces
    }


def drawn(spaces: Sequence[Space], trial: optuna.Trial) -> dict[str, Choice]:
    """The values that Optuna proposes for a trial."""
    values: dict[str, Choice] = {}
    for space in spaces:
        if space.range is None:
            texts = [json.dumps(choice) for choice in space.choices]
            values[space.path] = json.loads(trial.suggest_categorical(space.path, texts))
        elif space.integer:
            ends = int(space.range.low), int(space.range.high)
            values[space.path] = trial.suggest_int(space.path, *ends, log=space.range.log)
        else:
            values[space.path] = trial.suggest_float(
                space.path, space.range.low, space.range.high, log=space.range.log
            )
    return values


def search(bench: Bench) -> optuna.Study:
    """Runs trials until as many have ended as were asked for, with other processes that do the same."""
    import optuna

    opponent = prepare(bench, TUNING)
    study, states = open_study(bench), optuna.trial.TrialState
    while True:
        with ExitStack() as held:
            with waiting_for(bench.out / "turn"):  # one process at a time looks and begins
                take_over(bench, study)
                counted = Counter(trial.state for trial in trials_of(study))
                ended = sum(count for state, count in counted.items() if state.is_finished())
                if ended >= bench.settings.trials:
                    return study
                free = ended + counted[states.RUNNING] < bench.settings.trials or counted[states.WAITING]
                trial = study.ask() if free else None
                if trial is not None:
                    held.enter_context(_begun(bench, trial.number))
                    values = proposed(bench, study, trial)
            if trial is None:
                time.sleep(LOOK)  # others are at the last ones
                continue
            folder = bench.folder(values)
            held.enter_context(speaking_of(f"trial {trial.number}"))
            held.enter_context(waiting_for(folder))  # another process may have drawn the same values
            held.enter_context(holding(folder))
            _run(bench, study, trial, values, opponent)


def _begun(bench: Bench, number: int) -> AbstractContextManager[None]:
    """Held by a trial's process to the trial's end, also while it waits for the folder of its values."""
    return holding(bench.out / "trials" / f"trial-{number}", beside=True)


def proposed(bench: Bench, study: optuna.Study, trial: optuna.Trial) -> dict[str, Choice]:
    """The values of a trial, which the journal is told. What is random in them comes of the sampler's seed and the
    trial's number: processes don't draw the same, and a search that goes on does not begin its stream anew."""
    study.sampler = _sampler(bench.settings, trial.number)
    values = drawn(bench.spaces, trial)
    trial.set_user_attr(VALUES, json.dumps(values))
    return values


def trials_of(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """All trials but those that another one took over, in their order."""
    every = study.get_trials(deepcopy=False)
    left = {trial.user_attrs.get(INSTEAD) for trial in every}
    return [trial for trial in every if trial.number not in left]


def in_words(values: Mapping[str, Choice]) -> str:
    """As `--set` takes them."""
    return " ".join(
        f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={value}" for path, value in values.items()
    )


def _run(
    bench: Bench,
    study: optuna.Study,
    trial: optuna.Trial,
    values: Mapping[str, Choice],
    opponent: MethodOutputs | None,
) -> None:
    import optuna

    say(in_words(values))
    settings, before = bench.settings, [0]

    def watch(stage: Stage) -> list[Callback]:
        if settings.prune_by is None or len(settings.objectives) > 1:
            return []
        [best] = settings.objectives.values()
        sign = 1 if settings.prune_is == best else -1
        callback = Pruning(trial, f"eval_{settings.prune_by.removeprefix('eval_')}", before[0], sign)
        before[0] += 10**6
        return [callback]

    try:
        answers = run_trial(bench, values, f"trial {trial.number}", TUNING, watch)
        result = measured(bench, answers, opponent)
    except PrunedError:
        say("was stopped: its evaluations are below the median of the others'")
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return
    except TrimtabError as error:
        trial.set_user_attr(FAILED, first_line(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        tried = study.get_trials(deepcopy=False)
        if all(one.state == optuna.trial.TrialState.FAIL for one in tried if one.number <= trial.number):
            raise  # nothing works yet: not the values' fault
        say(f"failed: {first_line(error)}")
        return
    numbers = [wanted(result, name) for name in settings.objectives]
    trial.set_user_attr(ESTIMATE, result.estimates[next(iter(settings.objectives))].model_dump_json())
    trial.set_user_attr(SLACK, [wanted(result, name) - most for name, most in (settings.constraints or {}).items()])
    study.tell(trial, numbers)
    say(", ".join(f"{name} {number:.4g}" for name, number in zip(settings.objectives, numbers, strict=True)))


def take_over(bench: Bench, study: optuna.Study) -> None:
    """Trials whose process is gone are ended, and their values are next."""
    import optuna

    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        try:
            with _begun(bench, trial.number):
                study.tell(trial.number, state=states.FAIL)
                study.enqueue_trial(dict(trial.params), user_attrs={INSTEAD: trial.number})
        except HeldError:
            continue
