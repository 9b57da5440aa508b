"""A model card for what a stage trained: README.md beside the weights, made of what the stage wrote down.

It states what was done and measured, and no more. A path of the machine that trained is cut to its last part, and
the address of a server left out.
"""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path

import yaml

from trimtab.catalogue import CATALOGUE, family
from trimtab.data.conditions import ScoreCondition
from trimtab.data.day import SETTLED, read_day
from trimtab.evaluation.markdown import escape_markdown, fenced
from trimtab.files import read_json
from trimtab.json_types import JsonObject, JsonValue
from trimtab.models.inputs import describe_inputs

CARD = "README.md"
HIDDEN = "(an address)"
DATA_FILES = {".json", ".jsonl", ".parquet", ".csv"}


def stage_card(stage: Path, done: JsonObject | None = None, results: str = "") -> str:
    """The card of a stage's best model, as Markdown.

    done: what done.json will hold, where it is not there yet. results: a study's section on this method, which
    comes first.
    """
    done = _read(stage / "done.json") if done is None else done
    inputs, data = _read(stage / "stage.json"), _read(stage / "data.json")
    name, origin = str(inputs["stage"]), lineage(str(done["sources"]["model"]))
    start = escape_markdown(public_name(origin[0]))
    title = f"{start}: {' → '.join([*origin[1:], name])}"
    parts = [
        _front_matter(name, origin[0], done["sources"]),
        f"# {title}",
        results or "**Not evaluated**: this card is of a training run by itself. No claim of quality is made.",
        _training_section(_method_title(name, inputs["settings"]), origin, done, data["validation"]["used"] > 0),
        *_inputs_section(stage / "best" / "config.json"),
        _data_section(data, done["sources"]),
        *_target_score_section(inputs["settings"]),
        *_template_section(inputs["data"].get("chat_template_kwargs"), read_day(stage / SETTLED)),
        "## Settings\n" + fenced(yaml.safe_dump(public(inputs["settings"]), sort_keys=False), "yaml"),
        LIMITS,
        LICENCE,
    ]
    return "\n\n".join(parts) + "\n"


LIMITS = """## Limits
It may state falsehoods with confidence. It was not tested for safety, for languages or tasks other than those of
the rows above, nor for decisions about people. What the rows or the reward favour it imitates, their faults too."""

LICENCE = """## Licence
Not set: `license: unknown` stands for a decision that is the publisher's. The licences of the base model and of the
data bind it."""


def lineage(model: str) -> list[str]:
    """Where training started: the first model's source, then the stages that it went through."""
    stage = Path(model).expanduser().parent
    done = stage / "done.json"
    if Path(model).name != "best" or not done.is_file():
        return [model]
    return [*lineage(str(_read(done)["sources"]["model"])), str(_read(stage / "stage.json")["stage"])]


def gguf_start(sources: JsonObject) -> str | None:
    """How a GGUF file held the first model, where training started from one: "Q4_1, file NAME.gguf"."""
    stage = Path(str(sources["model"])).expanduser().parent
    if Path(str(sources["model"])).name == "best" and (stage / "done.json").is_file():
        return gguf_start(_read(stage / "done.json")["sources"])
    return sources.get("gguf")


def is_hub_name(source: str) -> bool:
    """Whether it names something on the hub, and no file or folder of this machine."""
    path = Path(source).expanduser()
    on_disk = path.is_absolute() or path.exists() or path.suffix in DATA_FILES or source.startswith(".")
    return not on_disk and source.count("/") <= 1 and ":" not in source


def public_name(source: str) -> str:
    """A hub name as it is, of a folder or file its last part."""
    return source if is_hub_name(source) else Path(source).name


def public_text(text: str) -> str:
    """Prose in which paths are cut to their last part, and addresses left out."""
    text = re.sub(r"\w+://[^\s(),;]+", HIDDEN, text)
    return re.sub(r"(?<![\w.:/])(?:~|\.{1,2})?/[^\s(),;]+", lambda match: Path(match[0]).name, text)


def public(value: JsonValue) -> JsonValue:
    """Settings without this machine's folders and without addresses of servers."""
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(item) for item in value]
    if isinstance(value, str) and "://" in value:
        return HIDDEN
    if isinstance(value, str) and (value.startswith(("/", "~", ".")) or "\\" in value):
        return value.replace("\\", "/").rsplit("/", 1)[-1]
    return value


def _front_matter(name: str, base: str, sources: JsonObject) -> str:
    """What the hub reads. Names that the hub does not know are left out."""
    files = dict.fromkeys([sources["train"], sources["validation"]])
    datasets = [source for source in files if source and is_hub_name(source)]
    head: JsonObject = {"license": "unknown", "library_name": "transformers"}
    head["pipeline_tag"] = "text-classification" if name == "reward" else "text-generation"
    head |= {"base_model": base} if is_hub_name(base) else {}
    head |= {"datasets": datasets} if datasets else {}
    head["tags"] = ["trimtab", "alignment", family(name)]
    return "---\n" + yaml.safe_dump(head, sort_keys=False) + "---"


def _target_score_section(settings: JsonObject) -> list[str]:
    """Of a model that was trained under scores: what its chat template adds, and how to ask for another."""
    condition = settings.get("condition")
    if not condition:
        return []
    score = ScoreCondition.model_validate(condition)
    low, high = str(score.rounded_score(score.low)), str(score.rounded_score(score.high))
    return [
        "## What it is asked for\n"
        "It was trained to answer for a score, and its chat template asks for the best in every prompt: "
        f"“{score.condition_text(high)}” `apply_chat_template(messages, target_score=…)` asks for another, on the "
        f"scale from {low} to {high}. Text that does not go through the template asks for none."
    ]


def _template_section(values: JsonObject | None, day: datetime.date | None) -> list[str]:
    """What its prompts were rendered with that the chat template's own defaults do not say."""
    lines = []
    if values:
        shown = json.dumps(values, ensure_ascii=False).replace("`", "'")
        lines.append(
            f"Its rows were rendered with `chat_template_kwargs={shown}`. The saved template does not do so by "
            "itself: give the same to `apply_chat_template`, or to the server."
        )
    if day:
        lines.append(
            f"Its chat template asks for today's date; the rows were rendered with that of {day.isoformat()}, "
            "and trimtab evaluates it with the same."
        )
    return ["## Chat template\n" + "\n".join(lines)] if lines else []


def _method_title(name: str, settings: JsonObject) -> str:
    loss = settings.get("loss", "dpo")
    method = family(name)
    under = ", on reward-augmented pairs" if settings.get("condition") else ""
    if method not in ("dpo", "online_dpo") or loss == "dpo":
        return (CATALOGUE[method].title if method in CATALOGUE else method) + under
    named = [loss] if isinstance(loss, str) else [f"{weight:g} × {part}" for part, weight in loss.items()]
    kind = (
        "a round of preference optimization on its own samples,"
        if method == "online_dpo"
        else "preference optimization"
    )
    return f"{kind} with the loss {' + '.join(named)}{under}"


def _training_section(title: str, origin: list[str], done: JsonObject, validated: bool) -> str:
    first = escape_markdown(public_name(origin[0]))
    if gguf := gguf_start(done["sources"]):
        first += f" (GGUF {escape_markdown(gguf)}, its weights read to float32)"
    start = first if len(origin) == 1 else f"{first} after {', '.join(origin[1:])}"
    ended = "ended early, for want of improvement," if done["stopped_early"] else "ran"
    return "\n".join(
        [
            "## Training",
            f"- Method: {title}, by trimtab {done['versions']['trimtab']} "
            f"(torch {done['versions']['torch']}, transformers {done['versions']['transformers']}).",
            f"- Started from: {start}.",
            f"- It {ended} {done['step']:,} optimizer steps on {done['tokens']:,} packed tokens "
            f"in {done['seconds']:,.0f} s ({done['device']}, {done['precision']} products, float32 weights).",
            f"- These weights are those of step {done['best_step']:,}, {_describe_choice(done, validated)}",
        ]
    )


def _inputs_section(config: Path) -> list[str]:
    """A section on what the model is fed beside token ids, where that is anything."""
    return describe_inputs(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else []


def _describe_choice(done: JsonObject, validated: bool) -> str:
    """validated: whether there were validation rows. Without a metric the loop keeps the last weights."""
    if not validated or done["best_metric"].removeprefix("eval_") in ("none", "step"):
        return "which no validation metric chose."
    metric = f"the validation metric {escape_markdown(done['best_metric'])} was best: {done['best']:.4g}"
    return f"where {metric}. It chose the weights, so it flatters them."


def _data_section(data: JsonObject, sources: JsonObject) -> str:
    lines = ["## Data"]
    for split in ("train", "validation"):
        counts = data[split]
        if not counts["rows"]:
            continue
        own = sources[split]
        named = escape_markdown(public_name(own or sources["train"]))
        source = named if own else f"held out of {named}"
        dropped = ", ".join(f"{n} × {why}" for why, n in counts["dropped"].items()) or "none"
        lines.append(
            f"- {split}: {counts['used']:,} of {counts['rows']:,} rows, {source}; dropped: {dropped}; "
            f"completions cut at the end: {counts['truncated']:,}."
        )
        if beside := counts.get("ignored"):
            unread = (f"`{name.replace('`', chr(39))}` ({n:,} rows)" for name, n in beside.items())
            lines.append(f"- not used of {split}: {', '.join(unread)}.")
    if data["shared_prompts"]:
        lines.append(f"- {data['shared_prompts']:,} training rows share their prompt with a held-out one.")
    return "\n".join(lines)


def _read(path: Path) -> JsonObject:
    return read_json(path, f"Put it back, or train the stage of {path.parent} again.")
