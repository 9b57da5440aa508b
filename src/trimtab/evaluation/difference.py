"""A paired difference of two methods, as results.json holds it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field

from trimtab.evaluation.estimate import STORED, Basis, Estimate, Interval95, SeedSpread, negated


class Difference(BaseModel):
    """a − b, paired over what both answered; `p_holm` is corrected over all pairs of the metric. missing: the
    other prompts, where there are any; missing_bounds: of a win rate, the least and the greatest difference that
    they could have made of it."""

    model_config = STORED
    a: str
    b: str
    metric: str
    difference: float
    ci95: Interval95
    p_value: Annotated[float, Field(gt=0, le=1)]
    p_holm: float | None = None
    n: int | None = None
    seeds: SeedSpread | None = None
    missing: int | None = None
    missing_bounds: Interval95 | None = None
    basis: Basis | None = None

    @property
    def estimate(self) -> Estimate:
        """The difference as any other number."""
        return Estimate(value=self.difference, ci95=self.ci95, n=self.n, seeds=self.seeds, basis=self.basis)

    def turned_round(self) -> Self:
        """The same of b − a."""
        turned = {"a": self.b, "b": self.a, "difference": -self.difference, "ci95": negated(self.ci95)}
        turned |= {"seeds": self.seeds and self.seeds.negated()}
        return self.model_copy(
            update=turned | {"missing_bounds": self.missing_bounds and negated(self.missing_bounds)}
        )
