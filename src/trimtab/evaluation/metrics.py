"""The table of metrics: everything that is measured of a method's answers and shown as a number.

Tables, CSV files, figures, comparisons, results.json and docs/metrics.md read this table. To add a metric, write a
function of `Answers` here or in a file of its own, and add a row. A function gives either a number for each prompt
(`per_prompt`), from which follow the mean, its intervals and paired comparisons, or one number for all answers
(`overall`). What completions do, as shares without intervals, has a table of its own in behaviours.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.evaluation.answers import Answers, scores_of
from trimtab.evaluation.estimate import Estimate, Interval95
from trimtab.evaluation.instruction_accuracy import instruction_level, prompt_level
from trimtab.evaluation.statistics import Floats

Measure = Callable[[Answers], Estimate | float | None]
"""One number of all answers; None where it cannot be known."""


@dataclass(frozen=True)
class Range:
    """What no value is beyond; intervals of means end there.

    certain: false for a judge's own scale, which holds where all values that were seen keep to it. rate: values are
    won, tied and lost, so that all won or all lost has Wilson's interval.
    """

    low: float
    high: float
    certain: bool = True
    rate: bool = False


RATE = Range(0.0, 1.0, rate=True)
SHARE = Range(0.0, 1.0)
PERHAPS_SHARE = Range(0.0, 1.0, certain=False)
POSITIVE = Range(0.0, math.inf)


@dataclass(frozen=True)
class Paired:
    """How differences between methods are shown.

    name: what differs, within a sentence. title: a column's header; "": the metric's own. axis: of its figure, with
    the unit; "": the name. note: added to the figure's caption. headline: whether it answers if a method helped.
    opponent: whether methods are compared with the opponent, too.
    """

    name: str
    title: str = ""
    axis: str = ""
    note: str = ""
    headline: bool = False
    opponent: bool = False


@dataclass(frozen=True)
class Metric:
    """One number that is reported of every method.

    name: its key in results. title: a column's header, with the unit. note: what it is, for docs/metrics.md.
    scale, digits: how it is shown; 100 for per cent. per_prompt: a number for each prompt, NaN where it is missing;
    None where it cannot be known. overall: one number of all answers, for what is no mean over prompts. paired: how
    differences between methods are shown; None where none are taken. range: what no value is beyond.
    doubt: "interval" is shown with one over prompts, and over seeds where there are several; "seeds" has one over
    seeds only; "none" stands beside another metric. judged: whether a judge is needed.
    stored: its place in a method's part of results.json, GROUP.KEY or KEY; "": NAME.mean. column: of CSV files; "":
    its name.
    """

    name: str
    title: str
    note: str
    scale: float = 1.0
    digits: int = 3
    per_prompt: Callable[[Answers], Floats | None] | None = None
    overall: Measure | None = None
    paired: Paired | None = None
    range: Range | None = None
    doubt: Literal["interval", "seeds", "none"] = "interval"
    judged: bool = False
    stored: str = ""
    column: str = ""

    @property
    def path(self) -> tuple[str, str]:
        """Its group in a method's part of results.json, and its key there; a key of "": it is no group."""
        group, _, key = (self.stored or f"{self.name}.mean").partition(".")
        return group, key

    @property
    def pair_title(self) -> str:
        """The header of its differences."""
        return (self.paired and self.paired.title) or self.title

    def bounds(self, *columns: Floats, difference: bool = False) -> Interval95 | None:
        """What no mean of these values is beyond, or no difference of two such means; None: nothing is known."""
        if self.range is None:
            return None
        low, high = self.range.low, self.range.high
        if not self.range.certain and not all(np.nanmin(c) >= low and np.nanmax(c) <= high for c in columns):
            return None
        if not difference:
            return (low, high)
        return (low - high, high - low) if math.isfinite(high - low) else None


# ---- one number a prompt


def judge_scores(answers: Answers) -> Floats:
    """The judge's score of each answer."""
    return np.array([np.nan if s is None else s for s in scores_of(answers.outputs)], dtype=np.float64)


def excess_lengths(answers: Answers) -> Floats | None:
    """Tokens above the chosen completion's, never below 0."""
    if not answers.chosen_lengths or answers.tokens is None:
        return None
    return np.maximum(0, answers.tokens - np.asarray(answers.chosen_lengths, dtype=np.float64))


def characters(answers: Answers) -> Floats | None:
    """Characters of each answer, where its tokens are not known."""
    return answers.characters if answers.tokens is None else None


def correctness(answers: Answers) -> Floats | None:
    """The judge's correctness of each answer, NaN where scoring failed; None unless every score has one."""
    scores = answers.outputs.scores
    parts = [s.breakdown.get("correctness") if s.score is not None else np.nan for s in scores]
    numbers = [float(x) for x in parts if isinstance(x, (int, float)) and not isinstance(x, bool)]
    values = np.array(numbers, dtype=np.float64)
    return values if len(numbers) == len(parts) and not np.isnan(values).all() else None


# ---- one number of all answers


def strict_win_rate(answers: Answers) -> float | None:
    """Share won; a tie is not."""
    return _share_of_judged(answers, lambda outcomes: outcomes > 0.5)


def win_rate_with_ties(answers: Answers) -> float | None:
    """Share won or tied."""
    return _share_of_judged(answers, lambda outcomes: outcomes >= 0.5)


def _share_of_judged(answers: Answers, counts: Callable[[Floats], NDArray[np.bool_]]) -> float | None:
    if answers.outcomes is None or not answers.is_judged:
        return None
    judged = answers.outcomes[~np.isnan(answers.outcomes)]
    return float(counts(judged).mean()) if judged.size else None


def length_controlled(answers: Answers) -> Estimate | None:
    """The win rate at equal length, with its interval over prompts; None where lengths hardly overlap."""
    fitted = answers.length_controlled
    return None if fitted is None or fitted.withheld else fitted.estimate


def chosen_length(answers: Answers) -> float | None:
    """Mean tokens of the chosen completions of the same prompts."""
    return float(np.mean(answers.chosen_lengths)) if answers.chosen_lengths else None


def median_length(answers: Answers) -> float | None:
    """Median of the answers' tokens."""
    return None if answers.tokens is None else float(np.median(answers.tokens))


def terminated(answers: Answers) -> float | None:
    """Share of answers that ended by themselves, before the cap; None where it is not known of one."""
    ended = [generation.terminated for generation in answers.outputs.generations]
    return None if None in ended else float(np.mean([bool(one) for one in ended]))


_ROWS = (
    Metric(
        "win_rate", "Win rate, %",
        "the headline: (wins + ties / 2) ÷ n against the opponent, same prompts, same decoding; a tie is an equal "
        "score. Its interval is Wilson's at the effective number of prompts: it knows of "
        "ties, and of rows of one prompt",
        scale=100, digits=1, per_prompt=lambda answers: answers.outcomes, range=RATE, judged=True,
        stored="win_rate.ties_half",
        paired=Paired(
            "win rate", title="Win rate, points", axis="win rate, points", headline=True,
            note="Filled: the interval excludes no difference (before correction for the number of pairs).",
        ),
    ),
    Metric(
        "win_rate_strict", "Strict, %", "wins ÷ n",
        scale=100, digits=1, overall=strict_win_rate, range=SHARE, doubt="none", judged=True,
        stored="win_rate.strict",
    ),
    Metric(
        "win_rate_ties_as_wins", "Ties as wins, %", "(wins + ties) ÷ n",
        scale=100, digits=1, overall=win_rate_with_ties, range=SHARE, doubt="none", judged=True,
        stored="win_rate.ties_as_wins",
    ),
    Metric(
        "length_controlled_win_rate", "At equal length, %",
        "logistic regression of the outcome on a constant, tanh(Δlength / sd) and the prompt's difficulty; lengths "
        "in characters; the prediction at Δlength = 0 (Dubois et al. 2024). Difficulty: what is expected of it by "
        "how three or more other methods did on the prompt, less what their lengths explain; or a column "
        "(`evaluation.difficulty`); else without. Withheld where under 10 % of the answers are as long as "
        "the opponent's or longer, or as short or shorter; extrapolated under 20 %",
        scale=100, digits=1, overall=length_controlled, range=SHARE, judged=True,
        stored="length_controlled_win_rate.value",
    ),
    Metric(
        "judge_score", "Judge score",
        "mean score of the judge: to be compared over the same prompts only",
        per_prompt=judge_scores, judged=True,
        paired=Paired("judge score", headline=True),
    ),
    Metric(
        "bleu_1", "BLEU-1", "corpus BLEU by sacrebleu against the chosen completion, of order 1, 0 to 100",
        digits=1, overall=lambda answers: answers.bleu and answers.bleu.bleu_1, range=POSITIVE, doubt="none",
        stored="bleu.1",
    ),
    Metric(
        "bleu_2", "BLEU-2", "the same of order 2",
        digits=1, overall=lambda answers: answers.bleu and answers.bleu.bleu_2, range=POSITIVE, doubt="none",
        stored="bleu.2",
    ),
    Metric(
        "bleu_4", "BLEU-4", "the same of order 4",
        digits=1, overall=lambda answers: answers.bleu and answers.bleu.bleu_4, range=POSITIVE, doubt="seeds",
        stored="bleu.4",
    ),
    Metric(
        "perplexity", "Perplexity",
        "exp of nats a token over the chosen completions of validation, token-weighted",
        digits=2, overall=lambda answers: answers.outputs.perplexity, range=POSITIVE, doubt="seeds",
        stored="perplexity",
    ),
    Metric(
        "bits_per_byte", "Bits per byte",
        "the same texts in bits per UTF-8 byte, comparable between tokenizers",
        overall=lambda answers: answers.outputs.bits_per_byte, range=POSITIVE, doubt="seeds",
        stored="bits_per_byte",
    ),
    Metric(
        "length", "Tokens", "mean tokens of the generated completions",
        digits=1, per_prompt=lambda answers: answers.tokens, range=POSITIVE, doubt="seeds",
        stored="length.mean", column="tokens_mean",
        paired=Paired("completion length", axis="length, tokens"),
    ),
    Metric(
        "length_median", "Tokens, median", "their median",
        digits=1, overall=median_length, range=POSITIVE, doubt="none",
        stored="length.median", column="tokens_median",
    ),
    Metric(
        "characters", "Characters",
        "mean characters of the completions, where nobody counted their tokens (`trimtab compare`)",
        digits=0, per_prompt=characters, range=POSITIVE, doubt="seeds",
        paired=Paired("completion length in characters", axis="length, characters"),
    ),
    Metric(
        "chosen_length", "Tokens of chosen, mean", "mean tokens of the chosen completions of the same prompts",
        digits=0, overall=chosen_length, range=POSITIVE, doubt="none",
        stored="length.chosen_mean", column="chosen_tokens_mean",
    ),
    Metric(
        "excess_length", "Excess tokens",
        "mean over prompts of max(0, tokens − tokens of the chosen completion); where chosen lengths are known",
        digits=1, per_prompt=excess_lengths, range=POSITIVE, column="excess_tokens",
        paired=Paired(
            "tokens above the chosen completion", axis="excess over the chosen length, tokens",
        ),
    ),
    Metric(
        "correctness", "Correctness",
        "mean of the judge's breakdown `correctness`, on its own scale (the sandbox's: −1 wrong … 1 right); only "
        "where every score has one",
        per_prompt=correctness, range=PERHAPS_SHARE, judged=True,
        paired=Paired("the judge's correctness, on its own scale", axis="the judge's correctness"),
    ),
    Metric(
        "terminated", "Ended, %", "share that ended by itself, before the cap",
        scale=100, digits=1, overall=terminated, range=SHARE, doubt="seeds",
        stored="terminated",
    ),
    Metric(
        "prompt_level_strict_acc", "Prompts, strict, %",
        "IFEval: share of prompts of which all instructions hold, where the rows have such "
        "([how they are checked](instructions.md))",
        scale=100, digits=1, per_prompt=prompt_level("strict"), range=RATE,
        paired=Paired(
            "prompt-level accuracy (strict)", title="Prompts, strict, points",
            axis="prompt-level accuracy (strict), points", opponent=True, headline=True,
        ),
    ),
    Metric(
        "inst_level_strict_acc", "Instructions, strict, %",
        "share of all instructions that hold: Σ held ÷ Σ asked, prompts resampled whole",
        scale=100, digits=1, per_prompt=instruction_level("strict"), range=RATE,
        paired=Paired(
            "instruction-level accuracy (strict)", title="Instructions, strict, points",
            axis="instruction-level accuracy (strict), points", opponent=True,
        ),
    ),
    Metric(
        "prompt_level_loose_acc", "Prompts, loose, %",
        "the same of prompts, where an instruction may hold without the first line, the last line or asterisks",
        scale=100, digits=1, per_prompt=prompt_level("loose"), range=RATE,
        paired=Paired(
            "prompt-level accuracy (loose)", title="Prompts, loose, points",
            axis="prompt-level accuracy (loose), points", opponent=True,
        ),
    ),
    Metric(
        "inst_level_loose_acc", "Instructions, loose, %", "the same of instructions",
        scale=100, digits=1, per_prompt=instruction_level("loose"), range=RATE,
        paired=Paired(
            "instruction-level accuracy (loose)", title="Instructions, loose, points",
            axis="instruction-level accuracy (loose), points", opponent=True,
        ),
    ),
)  # fmt: skip


METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}
"""By name, in the order of results and of CSV files."""


def paired_metrics() -> list[Metric]:
    """Those that methods are compared by, in the table's order."""
    return [metric for metric in METRICS.values() if metric.paired is not None]
