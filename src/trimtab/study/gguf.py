"""A finished model as GGUF files beside its export, each measured against the model that it was made from.

Every file is read back, as anybody would read it, and compared with the model: perplexity on held-out rows, greedy
answers, and in a study with a judge the win rate over the same test prompts, under the study's own decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.day import day_of_runs
from trimtab.data.records import Record
from trimtab.data.split_groups import encode_records
from trimtab.data.splits import DataSettings, Splits, split_records
from trimtab.data.tokenizer import json_of
from trimtab.devices import best_device
from trimtab.errors import TrimtabError
from trimtab.evaluation.estimate import Interval95
from trimtab.evaluation.generate import generate, stop_tokens
from trimtab.evaluation.measure import measure
from trimtab.evaluation.outputs import MethodOutputs
from trimtab.evaluation.perplexity import fluency
from trimtab.evaluation.settings import Decoding, EvaluationTask
from trimtab.evaluation.summary import About, StudyOutputs, summarise
from trimtab.files import read_json, write_json, write_text
from trimtab.formats import NONE
from trimtab.models.gguf.modelfile import modelfile
from trimtab.models.gguf.write import KINDS, package, write_gguf
from trimtab.models.loading import load_policy
from trimtab.models.lora import hash_model
from trimtab.notices import say, warn
from trimtab.recipe import load_recipe
from trimtab.report.table import Table
from trimtab.report.table_files import to_markdown
from trimtab.study.seeds import recipe_of_seed
from trimtab.study.sources import make_judge
from trimtab.study.training_seed import OPPONENT, TrainingSeed, evaluate_shared, opponent_of

if TYPE_CHECKING:
    from trimtab.models.policy import Policy

FACTS = "gguf.json"
PROMPTS, ROWS, TOKENS = 20, 200, 64
"""Greedy answers, and their longest; rows that the perplexity is of."""


@dataclass(frozen=True)
class Origin:
    """Where a finished stage stands. study: its study's folder, or None. method: as the study calls it."""

    stage: Path
    study: Path | None
    method: str


@dataclass
class FileFacts:
    """What was measured of one file. file: its name. bytes: its size. The model's own number stands beside each of
    the file's; None: not measured. agreed: of `prompts` greedy answers those that are the model's, to the token.
    difference: win rate of the file less the model's, over the same prompts."""

    file: str
    bytes: int
    perplexity: float | None = None
    perplexity_of_model: float | None = None
    agreed: int | None = None
    prompts: int | None = None
    win_rate: float | None = None
    win_rate_ci95: Interval95 | None = None
    win_rate_of_model: float | None = None
    difference: float | None = None
    difference_ci95: Interval95 | None = None
    p_value: float | None = None


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """The kinds that were asked for, each once. TrimtabError for one that is not written, or without gguf."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise TrimtabError(f"--gguf {unknown[0]}: written are {', '.join(KINDS)}.")
    package()
    return list(dict.fromkeys(kinds))


def write_files(origin: Origin, folder: Path, name: str, kinds: Sequence[str], measures: bool) -> str:
    """Writes a GGUF file of each kind, a Modelfile and gguf.json to `folder`, and returns the card's section.

    name: the files begin with it. measures: whether the files are compared with the model.
    """
    best = origin.stage / "best"
    facts: dict[str, FileFacts] = {}
    for kind in kinds:
        file = folder / f"{name}-{kind}.gguf"
        write_gguf(best, file, kind)
        facts[kind] = FileFacts(file.name, file.stat().st_size)
    tokenizer = load_tokenizer(str(best))
    ends = json_of(str(best), "generation_config.json").get("eos_token_id")
    stops = ends if isinstance(ends, list) else [ends]
    first = next(iter(facts.values())).file
    write_text(folder / "Modelfile", modelfile(first, tokenizer, [end for end in stops if end is not None]))
    if measures:
        try:
            _measure(origin, folder, facts)
        except TrimtabError as error:
            warn(f"GGUF files are written, but not measured: {error}", "GGUF")
    write_json(folder / FACTS, {"model": origin.method, "files": {k: asdict(f) for k, f in facts.items()}})
    return section(facts)


def section(facts: dict[str, FileFacts]) -> str:
    """The card's section on the files."""
    header = ["File", "Size, MB", "Perplexity", "The model's", "Same greedy answers", "Win rate, %"]
    header += ["− the model's, points"]
    rows = [
        [
            fact.file, f"{fact.bytes / 1e6:.1f}", _number(fact.perplexity, 3), _number(fact.perplexity_of_model, 3),
            NONE if fact.agreed is None else f"{fact.agreed} of {fact.prompts}",
            _percent(fact.win_rate, fact.win_rate_ci95), _percent(fact.difference, fact.difference_ci95, "+"),
        ]
        for fact in facts.values()
    ]  # fmt: skip
    notes = [
        "Each file was read back and compared with the model: perplexity of held-out answers, greedy answers of at "
        f"most {TOKENS} tokens, win rates over the study's test prompts with 95 % intervals, paired."
    ]
    table = to_markdown(Table("gguf", "GGUF files", header, rows, [], notes))
    return f"## GGUF\nFor llama.cpp; `ollama create NAME -f Modelfile` for Ollama.\n\n{table}"


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _percent(value: float | None, ci: Interval95 | None, sign: str = "") -> str:
    if value is None:
        return NONE
    shown = f"{100 * value:{sign}.1f}"
    return shown if ci is None else f"{shown} [{100 * ci[0]:{sign}.1f}, {100 * ci[1]:{sign}.1f}]"


def _measure(origin: Origin, folder: Path, facts: dict[str, FileFacts]) -> None:
    """Fills the facts in."""
    from trimtab.models.gguf.read import write_folder

    seed, splits, data = _rows_of(origin)
    full, quantised = str(origin.stage / "best"), []
    with TemporaryDirectory(prefix="trimtab-gguf-") as passing:
        for kind, fact in facts.items():
            place = Path(passing) / f"{folder.name}-{kind}"
            write_folder(folder / fact.file, place)
            _compare(fact, full, str(place), splits, data)
            if seed is not None and seed.judge is not None:
                quantised.append(_evaluated(seed, f"{origin.method}-{kind}", str(place), Path(passing)))
        if seed is not None and quantised:
            _win_rates(facts, seed, origin.method, full, quantised)


def _rows_of(origin: Origin) -> tuple[TrainingSeed | None, Splits, DataSettings]:
    """The rows that a study tests on, with the training seed; of a stage alone those that it held out."""
    if origin.study is None:
        inputs, done = (read_json(origin.stage / name, "") for name in ("stage.json", "done.json"))
        places = {name: done["sources"][name] for name in ("train", "validation")}
        data = DataSettings(**inputs["data"] | places)
        splits = split_records(data)
        if not splits.validation:
            raise TrimtabError(f"{origin.stage}: it held no rows out (data.validation_rows).")
        return None, splits, data
    from trimtab.study.run import study_rows

    recipe = load_recipe(origin.study / "recipe.yaml")
    rows = study_rows(recipe, origin.study)
    own = recipe_of_seed(recipe, int(origin.stage.parents[1].name.removeprefix("seed-")))
    judge = make_judge(recipe.judge, origin.study)
    seed = TrainingSeed(own, rows.data, rows.splits, origin.study, judge, rows.sampled)
    return seed, rows.splits, rows.data


def _compare(fact: FileFacts, full: str, quantised: str, splits: Splits, data: DataSettings) -> None:
    """Perplexity and greedy answers of a file and of the model, on the same rows."""
    held_out = [r for r in splits.validation if r.completions and not r.is_unpaired][:ROWS]
    asked = (splits.test or splits.validation)[:PROMPTS]
    told = []
    for place in (full, quantised):
        chat, policy = ChatFormat(load_tokenizer(place), data), load_policy(place)
        policy.to(best_device()).eval()
        told.append((_perplexity(policy, chat, held_out), _answers(policy, chat, asked)))
    (fact.perplexity_of_model, answers), (fact.perplexity, others) = told
    fact.prompts, fact.agreed = len(asked), sum(a == b for a, b in zip(answers, others, strict=True))
    say(f"{fact.file}: {fact.agreed} of {fact.prompts} greedy answers are the model's")


def _perplexity(policy: Policy, chat: ChatFormat, records: Sequence[Record]) -> float | None:
    groups, _ = encode_records(list(records), chat, "first")
    return fluency(policy, chat, groups, records, device=best_device()).perplexity if groups else None


def _answers(policy: Policy, chat: ChatFormat, records: Sequence[Record]) -> list[str]:
    decoding = Decoding(strategy="greedy", max_new_tokens=TOKENS)
    prompts = [record.prompt for record in records]
    return [g.text for g in generate(policy, chat, prompts, decoding, stop_tokens(policy.model, chat))]


def _evaluated(seed: TrainingSeed, name: str, model: str, passing: Path) -> MethodOutputs:
    """What a file's model answers to the study's test prompts, and its scores."""
    return measure(EvaluationTask(
        name, model, hash_model(model), seed.splits.test, [], seed.recipe.evaluation, seed.data, seed.judge,
        passing / "evaluation" / name, None, say, day_of_runs(seed.out), opponent=seed.opponent_answers(name),
    ))  # fmt: skip


def _win_rates(
    facts: dict[str, FileFacts], seed: TrainingSeed, method: str, full: str, quantised: Sequence[MethodOutputs]
) -> None:
    """Win rates against the study's opponent, and what a file loses, over the same prompts."""
    if seed.recipe.opponent is None:
        return
    opponent = replace(evaluate_shared([seed], opponent_of(seed.recipe)), name=OPPONENT)
    whole = seed.evaluate(method, full)
    results = summarise(StudyOutputs({}, [whole, *quantised], opponent), About(method))
    for kind, fact in facts.items():
        name = f"{method}-{kind}"
        rate, of_model = (results.methods[each].estimates.get("win_rate") for each in (name, method))
        if rate is None or of_model is None:
            continue
        fact.win_rate, fact.win_rate_ci95, fact.win_rate_of_model = rate.value, rate.ci95, of_model.value
        for c in results.comparisons:
            if c.metric == "win_rate" and {c.a, c.b} == {name, method}:
                sign = 1 if c.a == name else -1
                low, high = sorted(sign * end for end in c.ci95)
                fact.difference, fact.difference_ci95, fact.p_value = sign * c.difference, (low, high), c.p_value
