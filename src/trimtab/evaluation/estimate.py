"""A number and how sure it is: what every metric of a method comes to."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Interval95 = tuple[float, float]


STORED = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of every part of results.json: unknown keys are refused, and so are NaN and infinity."""


class Basis(BaseModel):
    """How an interval was made. method: by its name in INTERVALS, which says what it is. unit: what is
    independent of each other: prompts, or clusters of rows. units: how many there are. assumptions: what must
    hold for the interval to cover as it says, in sentences."""

    model_config = STORED
    method: str
    unit: str
    units: int
    assumptions: list[str] = []


INDEPENDENT = "{} are drawn independently of each other from those that the number is meant for."
OTHER_SEEDS = "Training seeds are exchangeable, and their numbers about normal."
THESE_SEEDS = "It holds for this training run: another seed may move the number by more."
INTERVALS = {
    "wilson_effective_n": "Wilson's score interval at the effective number of prompts (rates.py)",
    "bootstrap": "expanded percentile bootstrap (statistics.py)",
    "unseen": "nothing varied: what could be among the prompts that were not seen (statistics.py)",
    "seeds": "over prompts and over training seeds together (pooling.py)",
    "prediction_powered": "Wilson's at as many labels as judge and people are worth (prediction_powered.py)",
    "refitted_bootstrap": "percentile bootstrap, the model fitted anew in every resample (length_control.py)",
}


class SeedSpread(BaseModel):
    """One number over training seeds; pooling.py says what the intervals are good for.

    values: by seed. between_ci95: Student's t of their mean, with one degree of freedom less than there are
    seeds. within_ci95: of other prompts, these seeds; null for what is no mean over prompts.
    """

    model_config = STORED
    values: dict[int, float]
    between_ci95: Interval95 | None = None
    within_ci95: Interval95 | None = None

    def negated(self) -> SeedSpread:
        """The spread of the same number with the other sign, as of a difference turned round."""
        return SeedSpread(
            values={seed: -value for seed, value in self.values.items()},
            between_ci95=self.between_ci95 and negated(self.between_ci95),
            within_ci95=self.within_ci95 and negated(self.within_ci95),
        )


class Estimate(BaseModel):
    """value: in the metric's own unit; over several seeds it is their mean. ci95: its 95 % interval, where it has
    one. n: how many prompts (of a win rate: judgements) it rests on. seeds: what each training seed gave. basis:
    how ci95 was made; None in results of an earlier version."""

    model_config = STORED
    value: float
    ci95: Interval95 | None = None
    n: int | None = None
    seeds: SeedSpread | None = None
    basis: Basis | None = None


def negated(ci: Interval95) -> Interval95:
    """The interval of the same number with the other sign."""
    return (-ci[1], -ci[0])
