"""The command: parses, calls, prints. No logic."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from trimtab import __version__
from trimtab.errors import TrimtabError
from trimtab.notices import console

SMALLER = (
    "Lower token_budget or data.max_length, or set gradient_checkpointing=true; "
    "the same command goes on from the last checkpoint."
)


SCORERS = (
    "file.py:function, a classifier's folder, nemotron, nemotron_local:FOLDER, vllm:MODEL@URL, "
    "yes_no:FOLDER, or gold (the sandbox's)"
)


class _Commands(TyperGroup):
    """Says how a stopped run goes on; typer would leave without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align small language models, and know whether it helped.",
)
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting, such as data.max_length=512; more than once for several."
    ),
]
Model = Annotated[str, typer.Option("--model", help="Hugging Face folder or hub name.")]
Data = Annotated[str, typer.Option("--data", help=".jsonl, .json or .parquet file, folder, or hub name.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
Tokenizer = Annotated[str | None, typer.Option("--tokenizer", help="Where the tokenizer is, if elsewhere.")]
Rewards = Annotated[
    list[str] | None,
    typer.Option("--reward", help=f"{SCORERS}; may be given more than once."),
]
Validation = Annotated[str | None, typer.Option("--validation", help="Validation rows, if from elsewhere.")]


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and library messages.")] = False,
) -> None:
    if debug:
        os.environ["TRIMTAB_DEBUG"] = "1"
    _quiet(debug)


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(help="A recipe such as recipes/quickstart.yaml.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder; runs/NAME without it.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="0,1,2", help="Training seeds to pool; the recipe's without it."),
    ] = None,
    settings: Set = None,
) -> None:
    """The whole experiment: train every method, compare them, report."""
    from trimtab.recipe import load_recipe, seeds_named
    from trimtab.study import run_study

    loaded = load_recipe(recipe, settings or ())
    folder = out or Path("runs") / loaded.name
    results = run_study(loaded, folder, seeds_named(seeds) if seeds is not None else None)
    _print_results(results)
    print(f"Report: {folder / 'report.html'}")


@app.command()
def sft(
    model: Model,
    data: Data,
    out: Out,
    validation: Validation = None,
    tokenizer: Tokenizer = None,
    settings: Set = None,
) -> None:
    """Supervised fine-tuning on the chosen completions."""
    _train("sft", model, data, out, validation, tokenizer, settings)


@app.command()
def dpo(
    model: Model,
    data: Data,
    out: Out,
    validation: Validation = None,
    tokenizer: Tokenizer = None,
    settings: Set = None,
) -> None:
    """Direct preference optimization from a model that is also the reference."""
    _train("dpo", model, data, out, validation, tokenizer, settings)


@app.command()
def reward(
    model: Model,
    data: Data,
    out: Out,
    validation: Validation = None,
    tokenizer: Tokenizer = None,
    settings: Set = None,
) -> None:
    """A reward model from preference pairs (Bradley-Terry)."""
    _train("reward", model, data, out, validation, tokenizer, settings)


@app.command("online-dpo")
def online_dpo(
    model: Model,
    data: Data,
    out: Out,
    rewards: Rewards = None,
    validation: Validation = None,
    tokenizer: Tokenizer = None,
    settings: Set = None,
) -> None:
    """Rounds of sampling, scoring and preference training; --reward yes_no: the model itself scores."""
    _train("online_dpo", model, data, out, validation, tokenizer, settings, rewards)


@app.command()
def grpo(
    model: Model,
    data: Data,
    out: Out,
    rewards: Rewards = None,
    validation: Validation = None,
    tokenizer: Tokenizer = None,
    settings: Set = None,
) -> None:
    """Group policy gradient on a reward, from a model that is also the reference."""
    _train("grpo", model, data, out, validation, tokenizer, settings, rewards)


@app.command()
def ppo(
    model: Model,
    data: Data,
    out: Out,
    rewards: Rewards = None,
    validation: Validation = None,
    tokenizer: Tokenizer = None,
    settings: Set = None,
) -> None:
    """PPO with a value head on a reward, from a model that is also the reference."""
    _train("ppo", model, data, out, validation, tokenizer, settings, rewards)


def _train(
    method: str,
    model: str,
    data: str,
    out: Path,
    validation: str | None,
    tokenizer: str | None,
    settings: list[str] | None,
    rewards: list[str] | None = None,
) -> None:
    from trimtab.recipe import stage_settings
    from trimtab.study import run_alone

    training, rows = stage_settings(method, data, validation, settings or (), rewards or ())
    print(f"Model: {run_alone(method, model, training, rows, out, tokenizer)}")


@app.command()
def generate(model: Model, data: Data, out: Out, tokenizer: Tokenizer = None, settings: Set = None) -> None:
    """Completions of a data set's prompts, to OUT/generations.jsonl."""
    from trimtab.alone import generate_only

    print(f"Completions: {generate_only(model, data, out, tokenizer, settings or ())}")


@app.command()
def evaluate(
    model: Model,
    data: Data,
    out: Out,
    opponent: Annotated[
        str | None, typer.Option(help="The model that win rates are against; needs --judge.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help=f"Who scores; needs --opponent: {SCORERS}.")] = None,
    tokenizer: Tokenizer = None,
    settings: Set = None,
) -> None:
    """Win rates, BLEU, perplexity, lengths and behaviours of one model."""
    from trimtab.alone import evaluate_only

    results = evaluate_only(model, data, out, opponent, judge, tokenizer, settings or ())
    _print_results(results)
    print(f"Report: {out / 'report.html'}")


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
    from trimtab.data.findings import examine
    from trimtab.recipe import audit_settings
    from trimtab.report.audit import audit_tables, write_audit
    from trimtab.study import resolve_model

    rows, trust = audit_settings(data, validation, settings or ())
    source = tokenizer or model
    found = examine(rows, resolve_model(source) if source else None, trust)
    for table in audit_tables(found):
        _print_table(table, _wide_console(), table.caption)
    if out is not None:
        print(f"Audit: {write_audit(found, out)}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A study's folder, with results.json.")]) -> None:
    """Writes report.html, tables and figures anew from results.json."""
    from trimtab.study import report_only

    print(f"Report: {report_only(folder)}")


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe such as recipes/quickstart.yaml.")],
    measure: Annotated[bool, typer.Option(help="Time a few steps of each stage on this machine.")] = True,
    settings: Set = None,
) -> None:
    """Memory, time, reward calls and disk of a study, before they are spent."""
    from trimtab.plan.estimate import make_plan
    from trimtab.plan.tables import plan_tables
    from trimtab.recipe import load_recipe

    made = make_plan(load_recipe(recipe, settings or ()), measure)
    for table in plan_tables(made):
        _print_table(table, _wide_console(), table.caption)
    for line in made.notes:
        print(line)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A stage's folder, or a study's with --method.")],
    out: Out,
    method: Annotated[str | None, typer.Option(help="Of a study: whose model, such as dpo.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of a study of several training seeds: which.")] = None,
) -> None:
    """A finished model as a folder of its own, with a model card: ready to upload."""
    from trimtab.export import export_model

    print(f"Model: {export_model(folder, out, method, seed)}")


@app.command()
def version() -> None:
    """Prints the version."""
    print(__version__)


def _print_results(results: Any) -> None:
    from trimtab.report.tables import filled, methods_table

    for line in results.warnings:
        console.print(f"warning: {line}", style="yellow")
    _print_table(filled(methods_table(results)), _wide_console())
    for line in results.verdict:
        print(line)


def _wide_console() -> Console:
    """Wide enough for a pipe or a file, too."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _print_table(table: Any, console: Console, title: str | None = None) -> None:
    """Text of data stands in cells: it is no markup. The notes come with the title."""
    if title:  # not the table's own: that wraps to the width of its columns
        console.print(escape(title), style="italic", highlight=False)
    shown = Table()
    for column in table.header:
        shown.add_column(escape(column), overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    console.print(shown)
    for note in table.notes if title else ():
        console.print(escape(note), highlight=False)


def _quiet(debug: bool) -> None:
    """Libraries speak only when asked to."""
    if debug:
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def main() -> None:
    """Exit code 0 only for done; a dead end is one message without a traceback."""
    try:
        app(standalone_mode=True)
    except TrimtabError as error:
        if os.environ.get("TRIMTAB_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except (OSError, json.JSONDecodeError) as error:
        if os.environ.get("TRIMTAB_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:  # torch.OutOfMemoryError, without importing torch to say so
        if type(error).__name__ != "OutOfMemoryError" or os.environ.get("TRIMTAB_DEBUG"):
            raise
        print(f"error: out of memory on the device. {SMALLER} ({str(error).splitlines()[0]})", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
