"""The training loop of every method: the only optimizer.step() of the package.

`batch_size × accumulation` fixes how many completion groups an optimizer step takes; the token budget
only decides how the step is cut into passes. Losses are normalised over the whole step before the first
pass, so gradients add up to those of one big batch. All steps counted anywhere are optimizer steps.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from trimtab.data.groups import CompletionGroup
from trimtab.devices import release_now_and_then
from trimtab.errors import TrimtabError
from trimtab.files import write_directory
from trimtab.notices import say, warn
from trimtab.stopping import Stopped, asked, patiently
from trimtab.training.callbacks import Callback
from trimtab.training.checkpoint import Checkpoints
from trimtab.training.gradient import Gradients
from trimtab.training.guard import Guard, skipped_row
from trimtab.training.metrics import Means, MetricsLog
from trimtab.training.optimizer import make_optimizer
from trimtab.training.order import Draws, RandomDraws
from trimtab.training.progress import StepProgress
from trimtab.training.run_state import Finished, Progress
from trimtab.training.schedule import TrainingSettings, learning_rate_factor, total_steps
from trimtab.training.step import Method
from trimtab.training.weights import Weights

LAST = "last"
"""The last weights, beside best/, where that holds the model that training started from."""


class Loop:
    """Trains one policy with one method in one folder; resumes from the folder's newest checkpoint."""

    def __init__(
        self,
        policy: torch.nn.Module,
        method: Method,
        groups: Sequence[CompletionGroup],
        settings: TrainingSettings,
        folder: Path,
        accelerator: Accelerator,
        save: Callable[[Path], None],
        sample: Callable[[], list[dict[str, str]]] | None = None,
        title: str = "train",
        draws: Draws | None = None,
        callbacks: Sequence[Callback] = (),
        judged: Callable[[], Mapping[str, float]] | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.callbacks, self.judged, self.weights = callbacks, judged, weights or Weights(policy)
        self.policy, self.method, self.groups, self.settings = policy, method, groups, settings
        self.folder, self.accelerator, self.title = folder, accelerator, title
        self.save_best, self.sample = save, sample
        self.draws = draws or RandomDraws(groups, settings)
        self.steps = total_steps(settings, len(groups)) * (1 if settings.max_steps else method.steps_per_batch)
        self.evaluation_interval = settings.evaluation_interval or max(1, self.steps // 10)
        self.checkpoint_interval = settings.checkpoint_interval or self.evaluation_interval
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.log, self.samples = MetricsLog(folder / "metrics.jsonl"), MetricsLog(folder / "samples.jsonl")
        self.completions = MetricsLog(folder / "completions.jsonl")
        self.best_metric = settings.best_metric or method.best_metric
        self.best_is = settings.best_is or method.best_is
        self.skipped = MetricsLog(folder / "skipped.jsonl")
        self.logs = {log.path.name: log for log in (self.log, self.samples, self.completions, self.skipped)}
        self.saved_best: int | None = None
        """The best step that the newest checkpoint would resume with."""
        self.guard, self.state = Guard(settings.explosion), Progress()
        trained = self.weights.trained
        self.optimizer = make_optimizer(trained, settings, method.rates)
        if self.weights.shared_out:  # what is read is not what is trained, and neither is wrapped once more
            self.read = accelerator.prepare_model(policy, evaluation_mode=True)
            wrapped = accelerator.prepare_model(trained, evaluation_mode=True)
            self.optimizer = accelerator.prepare_optimizer(self.optimizer)
        else:
            wrapped, self.optimizer = accelerator.prepare(trained, self.optimizer)
            self.read = wrapped
        self.gradients = Gradients(accelerator, self.weights, wrapped, settings.pass_tokens)
        if settings.step_groups < accelerator.num_processes:
            raise TrimtabError(
                f"batch_size × accumulation = {settings.step_groups} is less than the "
                f"{accelerator.num_processes} processes; each needs at least one group a step."
            )

    # ---- one step

    def train_step(self, step: int) -> tuple[dict[str, float], int]:
        """One optimizer step. Returns its metrics, averaged over passes and processes, and its tokens."""
        acc, settings = self.accelerator, self.settings
        data_step = step // self.method.steps_per_batch
        drawn = self.draws.of_step(data_step)
        self.weights.train(False)  # while the method samples
        with self.weights.whole() if self.method.runs_policy else nullcontext():
            prepared = self.method.prepare(drawn, step)
        self.weights.train()
        self.state.samples = list(prepared.samples) or self.state.samples
        means = Means()
        means.add(prepared.metrics)
        everyone, extra = list(prepared.groups), prepared.extra
        mine = everyone[acc.process_index :: acc.num_processes]
        loss, norm = self.gradients.of_loss(mine, prepared.loss, prepared.total, settings.max_grad_norm, means)
        losses, norms = {"": loss}, {"": norm}
        if extra is not None:
            losses[extra.name], norms[extra.name] = self.gradients.add(extra, means)
            means.add({extra.name: (losses[extra.name], 1.0), f"{extra.name}/grad_norm": (norms[extra.name], 1.0)})
        means.add({"loss": (sum(losses.values()), 1.0)})
        rate = settings.learning_rate * learning_rate_factor(settings, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)
        if acc.num_processes > 1:
            means = Means.merge(gather_object([means.sums]))
            losses = {name: sum(parts) for name, parts in _by_name(gather_object([losses])).items()}
        fault = self.guard.fault(losses, norms)
        if fault is None:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        metrics = {**means.means(), "grad_norm": norm, "learning_rate": rate}
        if fault is not None:
            self._skip(step + 1, fault, everyone)
            metrics = {}
        return metrics, sum(group.packed_length for group in everyone)

    def _skip(self, step: int, fault: str, groups: Sequence[CompletionGroup]) -> None:
        """Notes a step that was not taken; TrimtabError after too many, with the best weights in best/."""
        self.guard.skipped += 1
        rows = ", ".join(str(group.index) for group in groups[:8]) + (", …" if len(groups) > 8 else "")
        if self.accelerator.is_main_process:
            self.skipped.write(skipped_row(step, fault, groups))
            say(f"{self.title}: step {step} was not taken: {fault} (rows {rows})")
        none_taken = self.guard.skipped == self.steps
        if none_taken or self.guard.skipped > self.settings.max_skipped:
            kept, limit = "", f"max_skipped={self.settings.max_skipped}"
            if self.state.best_step is not None:
                self._finish(stopped=True)
                kept = f" The best weights, of step {self.state.best_step}, are in {self.folder / 'best'}."
            raise TrimtabError(
                f"{self.title}: {fault} at step {step} (rows {rows}): {self.guard.skipped} steps were not taken "
                f"(skipped.jsonl has their rows), {'all there are' if none_taken else f'more than {limit}'}.{kept} "
                "A lower learning_rate is the usual cure."
            )

    # ---- the run

    def run(self) -> Finished:
        """Runs the remaining steps, from the newest checkpoint on. Stopped where a signal asks for it."""
        try:
            return self._run()
        finally:
            for callback in self.callbacks:
                callback.ended()

    def _run(self) -> Finished:
        self._resume()
        if self.accelerator.is_main_process:
            for name, log in self.logs.items():
                # A run without a checkpoint starts from nothing: its evaluation at step 0 is done again.
                lost = log.rewind(self.state.step if self.state.step else -1, self.state.logs.get(name))
                if lost:
                    warn(f"{self.title}: {lost}")
        if self.state.step == 0:
            self._evaluate(0)
        started, before = time.monotonic(), self.state.seconds
        stopped = self._out_of_patience()
        window = Means.merge([self.state.window])
        with patiently(), StepProgress(self.title, self.steps, self.state.step) as bar:
            while self.state.step < self.steps and not stopped:
                metrics, tokens = self.train_step(self.state.step)
                metrics |= self.draws.see(metrics)
                self.state.step += 1
                self.state.tokens += tokens
                self.state.seconds = before + time.monotonic() - started
                step = self.state.step
                window.add({name: (value, 1.0) for name, value in metrics.items()})
                bar.show_step(metrics.get("loss"), tokens)
                release_now_and_then()
                if step % self.settings.logging_interval == 0 or step == self.steps:
                    self._log_step(step, window.means())
                    window = Means()
                self.state.window = window.sums
                if step % self.evaluation_interval == 0 or step == self.steps:
                    self._evaluate(step)
                    stopped = self._out_of_patience()
                if self.settings.sample_interval and step % self.settings.sample_interval == 0:
                    self._show_samples(step)
                signal = self._asked_to_stop()
                if signal or (step % self.checkpoint_interval == 0 and step < self.steps and not stopped):
                    self._checkpoint()
                if signal:
                    raise Stopped(signal)
        return self._finish(stopped)

    def _show_samples(self, step: int) -> None:
        self.weights.train(False)
        with self.weights.whole():
            if self.sample and self.accelerator.is_main_process:
                for row in self.sample():
                    self.samples.write({"step": step, **row})

    def _asked_to_stop(self) -> int | None:
        """The signal, of any process: they stop at the same step."""
        if self.accelerator.num_processes == 1:
            return asked()
        return next(filter(None, gather_object([asked()])), None)

    def _log_step(self, step: int, means: Mapping[str, float]) -> None:
        row = {
            "step": step,
            "epoch": self._epoch(step),
            **means,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **({"skipped_steps": self.guard.skipped} if self.guard.skipped else {}),
            "num_tokens": self.state.tokens,
            "seconds": round(self.state.seconds, 3),
        }
        if self.accelerator.is_main_process:
            self._write(row)
            for sampled in self.state.samples:
                self.completions.write({"step": step, **sampled})
        self.state.samples = []

    def _write(self, row: Mapping[str, object]) -> None:
        self.log.write(row)
        for callback in self.callbacks:
            callback.logged(row)

    def _epoch(self, step: int) -> float:
        return step / self.method.steps_per_batch * self.settings.step_groups / len(self.groups)

    def _evaluate(self, step: int) -> None:
        """Evaluates, logs, and keeps the weights when they are the best so far (ties: the earliest)."""
        self.weights.train(False)
        with self.weights.whole():
            self._evaluate_whole(step)

    def _evaluate_whole(self, step: int) -> None:
        with torch.no_grad():
            values = {**self.method.evaluate(self.read), **(self.judged() if self.judged else {})}
        if self.accelerator.num_processes > 1:
            # The main process's, for all: what is best, and when to stop, must not depend on rounding.
            values = gather_object([values])[0]
        named = {f"eval_{name}": value for name, value in values.items()}
        if self.accelerator.is_main_process:
            self._write({"step": step, "epoch": self._epoch(step), **named})
        value = ({"eval_step": float(step)} | named).get(f"eval_{self.best_metric.removeprefix('eval_')}")
        if value is None:
            if not named:  # no validation data: the last weights are the best known
                value = -float(step) if self.best_is == "lowest" else float(step)
            else:
                raise TrimtabError(f"best_metric {self.best_metric!r} is not among {', '.join(sorted(named))}.")
        sign = 1 if self.best_is == "highest" else -1
        if math.isfinite(value) and (self.state.best is None or sign * value > sign * self.state.best):
            self.state.best, self.state.best_step = value, step
            if self.accelerator.is_main_process:
                write_directory(self.checkpoints.best_path(step), self.save_best, sums=True)
                self._drop_old_best()
            self.accelerator.wait_for_everyone()

    def _drop_old_best(self) -> None:
        """Keeps the newest best, and the one that the newest checkpoint would resume with."""
        keep = {self.checkpoints.best_path(s) for s in (self.state.best_step, self.saved_best) if s is not None}
        for path in self.checkpoints.folder.glob("best-*"):
            if path not in keep:
                shutil.rmtree(path)

    def _out_of_patience(self) -> bool:
        patience, best_step = self.settings.patience, self.state.best_step
        return patience is not None and best_step is not None and self.state.step - best_step >= patience

    def _checkpoint(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.state.method, self.state.guard = dict(self.method.state()), self.guard.state()
            self.state.order = self.draws.state()
            self.state.logs = {name: log.mark() for name, log in self.logs.items()}
            state = {k: v for k, v in vars(self.state).items() if k != "step"}
            self.checkpoints.save(self.state.step, self.weights, self.optimizer, state)
            self.saved_best = self.state.best_step
            self._drop_old_best()
        elif self.weights.shared_out:
            self.checkpoints.join(self.weights, self.optimizer)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        with self.accelerator.main_process_first():  # which removes a damaged one
            saved = self.checkpoints.newest(
                self.checkpoints.best_damage, lambda line: warn(f"{self.title}: {line}")
            )
        if saved is None:
            return
        self.state = Progress(**saved)
        self.saved_best = self.state.best_step
        self.method.load_state(self.state.method)
        self.guard.load_state(self.state.guard)
        self.draws.load_state(self.state.order)
        self.checkpoints.load(self.state.step, self.weights, self.optimizer)

    def _finish(self, stopped: bool) -> Finished:
        """Puts the best weights in `best/`. The checkpoints go only once the stage is marked done."""
        best, best_step = self.state.best, self.state.best_step
        if best is None or best_step is None:
            raise TrimtabError(f"{self.title}: no evaluation gave a finite {self.best_metric}; nothing to keep.")
        if self.accelerator.is_main_process:
            write_directory(self.folder / "best", lambda out: self.checkpoints.copy_best(best_step, out))
        if best_step == 0 < self.state.step:  # or nothing would be left of the training
            with self.weights.whole():
                if self.accelerator.is_main_process:
                    write_directory(self.folder / LAST, self.save_best)
        self.accelerator.wait_for_everyone()
        state = self.state
        return Finished(state.step, best_step, best, stopped, state.seconds, state.tokens)


def _by_name(parts: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [part[name] for part in parts] for name in parts[0]}
