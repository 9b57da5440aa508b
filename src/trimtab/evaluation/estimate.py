"""A number and how sure it is: what every metric of a method comes to."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Interval95 = tuple[float, float]


STORED = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of every part of results.json: unknown keys are refused, and so are NaN and infinity."""


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
    one. n: how many prompts (of a win rate: judgements) it rests on. seeds: what each training seed gave."""

    model_config = STORED
    value: float
    ci95: Interval95 | None = None
    n: int | None = None
    seeds: SeedSpread | None = None


def negated(ci: Interval95) -> Interval95:
    """The interval of the same number with the other sign."""
    return (-ci[1], -ci[0])
