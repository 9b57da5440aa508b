"""The command: parses, calls, prints. No logic."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from trimtab import __version__
from trimtab.catalogue import CATALOGUE, MethodEntry, settings_hint
from trimtab.chat_command import chat_command
from trimtab.compare_command import compare_command
from trimtab.dead_ends import flush, in_words
from trimtab.notices import hush
from trimtab.options import (
    AcceptChangedReward,
    Commands,
    Data,
    Gpus,
    Limit,
    Model,
    Out,
    Overwrite,
    Ray,
    Rewards,
    Rows,
    Set,
    Skip,
    Tokenizer,
    Validation,
    Workers,
)
from trimtab.plan_command import plan_command
from trimtab.prefer_command import prefer_command
from trimtab.report_command import report_command
from trimtab.rewards.kinds import NAMES
from trimtab.settings_command import settings_command
from trimtab.show import print_ending, print_results, print_table
from trimtab.stopping import Stopped, listening
from trimtab.tune_command import tune_command
from trimtab.watch_command import watch_command

BROKEN_PIPE = 141
"""128 + SIGPIPE, as of any command whose reader has gone."""

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    # Frames are for a terminal: in a file a message is one line.
    rich_markup_mode="rich" if sys.stderr.isatty() else None,
    help="Align small language models, and know whether it helped.",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and library messages.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Results, warnings and errors only; no progress.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave."),
    ] = False,
) -> None:
    if debug:
        os.environ["TRIMTAB_DEBUG"] = "1"
    hush(debug, quiet)


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(help="A recipe: a file, or quickstart.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder; runs/NAME without it.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="0,1,2", help="Training seeds to pool, added to those that OUT has."),
    ] = None,
    limit: Limit = None,
    workers: Workers = None,
    gpus: Gpus = None,
    ray: Ray = None,
    accept_changed_reward: AcceptChangedReward = False,
    settings: Set = None,
) -> None:
    """The whole experiment: train every method, compare them, report."""
    from trimtab.command_settings import check_sharing, gpus_named, seeds_named
    from trimtab.study.asked import loading_libraries, recipe_asked

    training_seeds = seeds_named(seeds) if seeds is not None else None
    pinned = gpus_named(gpus)
    check_sharing(ray, workers, pinned)
    loaded = recipe_asked(recipe, limit, settings or ())
    with loading_libraries():
        from trimtab.study.run import run_study
        from trimtab.training.changed import accepting_changed_reward

    folder = out or Path("runs") / loaded.name
    with accepting_changed_reward(accept_changed_reward):
        results = run_study(loaded, folder, training_seeds, workers, pinned, ray)
    print_results(results)
    print(f"Report: {folder / 'report.html'}")


def _add_method(entry: MethodEntry) -> None:
    """The command of one method of the catalogue."""

    def on_data(
        model: Model,
        data: Data,
        out: Out,
        validation: Validation = None,
        tokenizer: Tokenizer = None,
        limit: Limit = None,
        settings: Set = None,
    ) -> None:
        _train(entry.name, model, data, out, validation, tokenizer, limit, settings)

    def on_a_reward(
        model: Model,
        data: Data,
        out: Out,
        rewards: Rewards = None,
        validation: Validation = None,
        tokenizer: Tokenizer = None,
        limit: Limit = None,
        accept_changed_reward: AcceptChangedReward = False,
        settings: Set = None,
    ) -> None:
        _train(entry.name, model, data, out, validation, tokenizer, limit, settings, rewards, accept_changed_reward)

    run = on_a_reward if entry.driven_by == "reward" else on_data
    app.command(entry.name.replace("_", "-"), help=entry.summary, epilog=settings_hint(entry.name))(run)


for _entry in CATALOGUE.values():
    if _entry.summary:
        _add_method(_entry)


def _train(
    method: str,
    model: str,
    data: str,
    out: Path,
    validation: str | None,
    tokenizer: str | None,
    limit: int | None,
    settings: list[str] | None,
    rewards: list[str] | None = None,
    accept_changed_reward: bool = False,
) -> None:
    from trimtab.study.asked import loading_libraries, stage_asked

    settings_and_limit = [*(settings or ()), *([f"data.limit={limit}"] if limit else [])]
    training, rows = stage_asked(method, model, data, validation, settings_and_limit, rewards or ())
    with loading_libraries():
        from trimtab.study.run import run_alone
        from trimtab.training.changed import accepting_changed_reward

    with accepting_changed_reward(accept_changed_reward):
        best = run_alone(method, model, training, rows, out, tokenizer)
    print_ending(best.parent)
    print(f"Model: {best}")


@app.command()
def generate(
    model: Model,
    data: Data,
    out: Out,
    tokenizer: Tokenizer = None,
    rows: Rows = None,
    skip: Skip = 0,
    overwrite: Overwrite = False,
    settings: Set = None,
) -> None:
    """Completions of a data set's prompts, to OUT/generations.jsonl."""
    from trimtab.study.asked import generate_asked

    print(f"Completions: {generate_asked(model, data, out, tokenizer, settings or (), rows, skip, overwrite)}")


@app.command()
def evaluate(
    model: Model,
    data: Data,
    out: Out,
    opponent: Annotated[
        str | None, typer.Option(help="The model that win rates are against; needs --judge.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help=f"Who scores; needs --opponent: {NAMES}.")] = None,
    tokenizer: Tokenizer = None,
    rows: Rows = None,
    skip: Skip = 0,
    overwrite: Overwrite = False,
    settings: Set = None,
) -> None:
    """Win rates, BLEU, perplexity, lengths and behaviours of one model."""
    from trimtab.study.asked import evaluate_asked

    results = evaluate_asked(model, data, out, opponent, judge, tokenizer, settings or (), rows, skip, overwrite)
    print_results(results)
    print(f"Report: {out / 'report.html'}")


app.command("compare")(compare_command)
app.command("chat")(chat_command)
app.command("prefer")(prefer_command)


@app.command()
def audit(
    data: Annotated[str, typer.Argument(help="File, folder or hub name.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for audit.json and audit.md.")] = None,
    validation: Validation = None,
    model: Annotated[str | None, typer.Option("--model", help="Whose tokenizer lengths are counted with.")] = None,
    tokenizer: Tokenizer = None,
    settings: Set = None,
) -> None:
    """What a data set holds and what it will teach: drops, lengths, markers, contradictions, shared prompts."""
    from trimtab.study.asked import audit_asked, loading_libraries
    from trimtab.study.sources import resolve_model

    source = tokenizer or model
    rows, trust = audit_asked(data, validation, source, settings or ())
    with loading_libraries():
        from trimtab.audit.findings import examine
        from trimtab.report.audit import audit_tables, write_audit

    audit = examine(rows, resolve_model(source) if source else None, trust)
    for table in audit_tables(audit):
        print_table(table, table.caption)
    if out is not None:
        print(f"Audit: {write_audit(audit, out)}")


app.command("report")(report_command)
app.command("settings")(settings_command)
app.command("watch")(watch_command)
app.command("tune")(tune_command)


app.command("plan")(plan_command)


@app.command()
def init(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.")] = Path("mine.yaml"),
    tokenizer: Tokenizer = None,
) -> None:
    """A recipe for your model and data, with a sentence on each setting; it runs as it is."""
    from trimtab.study.asked import check_init, loading_libraries

    check_init(model, data, out)
    with loading_libraries():
        from trimtab.init import write_recipe

    for line in write_recipe(model, data, out, tokenizer):
        print(line)
    print(f"Recipe: {out}\nNext: trimtab plan {out}; trimtab study {out}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A stage's folder, or a study's with --method.")],
    out: Out,
    method: Annotated[str | None, typer.Option(help="Of a study: whose model, such as dpo.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of a study of several training seeds: which.")] = None,
    gguf: Annotated[list[str] | None, typer.Option(help="GGUF files too: q8_0, f16, bf16 or f32.")] = None,
    measure: Annotated[bool, typer.Option(help="Compare GGUF files with the model on its rows.")] = True,
) -> None:
    """A finished model as a folder of its own, with a model card: ready to upload."""
    from trimtab.study.asked import export_asked

    print(f"Model: {export_asked(folder, out, method, seed, gguf or (), measure)}")


@app.command()
def version() -> None:
    """Prints the version."""
    print(__version__)


def main() -> None:
    """Exit code 0 only for done; a dead end is one message without a traceback."""
    with listening():
        try:
            app(standalone_mode=True, prog_name="trimtab")
        except SystemExit:
            flush()
            raise
        except BrokenPipeError:
            flush()
            sys.exit(BROKEN_PIPE)
        except KeyboardInterrupt as stop:  # before a command began, or while one ended
            sys.exit(stop.exit_code if isinstance(stop, Stopped) else 130)
        except Exception as error:
            said = in_words(error)
            if said is None or os.environ.get("TRIMTAB_DEBUG"):
                raise
            print(f"error: {said}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
