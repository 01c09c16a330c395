"""`Comparison`: several fits of the same data side by side, and which of them each criterion chooses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdiff.inference.cross_validation import CrossValidation
from jaxdiff.reports.text import table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

IN_NAT = "likelihood", "negative_log_likelihood"  # losses that differ by ln L
TIE = 1.0  # of half a criterion, a factor e of the likelihood, below which two fits are not told apart
CRITERIA = {"aic": "AIC", "aicc": "AICc", "bic": "BIC", "held_out": "held out"}


class LikelihoodRatio(NamedTuple):
    """A test of a fit against one that it is nested in: names, 2 Δ ln L, degrees of freedom, p, and how nesting is known."""

    small: str
    large: str
    statistic: float
    freedom: float
    p: float
    known: str


@dataclass(frozen=True)
class Comparison:
    """Several fits of the same data side by side; it prints itself as a table.

        AIC = 2k − 2 ln L,  AICc = AIC + 2k(k + 1)/(n − k − 1),  BIC = k ln n − 2 ln L,  wᵢ ∝ e^(−ΔAICᵢ/2)

    k counts the fitted numbers, a variance that is estimated and a correlation time of the noise too.

    Attributes:
        fits: what was compared, `Fit` or `CrossValidation`.
        names: of the fits.
        log_likelihood: `(m,)`; NaN where a fit has none.
        k: `(m,)`, how many numbers each fit has estimated.
        n: how many independent data there are.
        held_out: `(m,)`, the loss or score on data held out; NaN where there are none.
        by: the criterion that chooses: "aic", "aicc", "bic" or "held_out".
        tests: likelihood ratios of fits that are nested, each in the next larger one.
        notes: what a reader must know, in words.

    As `compare` makes it of two fits of 100 data:

    >>> import jaxdiff as jd, numpy as np
    >>> likelihoods, none = np.array([-210.0, -209.5]), np.full(2, np.nan)
    >>> found = jd.Comparison((None, None), ("line", "parabola"), likelihoods, np.array([2, 3]), 100, none, "aic")
    >>> found.aic, found.weights.round(2), found.choose("bic"), found.ties
    (array([424., 425.]), array([0.62, 0.38]), 'line', ('line', 'parabola'))

    Akaike 1974, doi:10.1109/TAC.1974.1100705; Hurvich & Tsai 1989, doi:10.1093/biomet/76.2.297; Schwarz 1978, doi:10.1214/aos/1176344136.
    """

    fits: tuple[Any, ...] = field(repr=False)
    names: tuple[str, ...]
    log_likelihood: np.ndarray
    k: np.ndarray
    n: int
    held_out: np.ndarray
    by: str
    tests: tuple[LikelihoodRatio, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.fits)

    @property
    def aic(self) -> np.ndarray:
        """`(m,)`."""
        return 2 * self.k - 2 * self.log_likelihood

    @property
    def aicc(self) -> np.ndarray:
        """`(m,)`; infinite where there are no more than k + 1 data."""
        left = self.n - self.k - 1
        return self.aic + np.where(left > 0, 2 * self.k * (self.k + 1) / np.maximum(left, 1), np.inf)

    @property
    def bic(self) -> np.ndarray:
        """`(m,)`."""
        return self.k * np.log(max(self.n, 1)) - 2 * self.log_likelihood

    @property
    def weights(self) -> np.ndarray:
        """`(m,)` Akaike weights, e^(−ΔAIC/2) over their sum; by AICc or BIC where these choose."""
        criterion = getattr(self, self.by) if self.by != "held_out" else self.aic
        with np.errstate(invalid="ignore"):
            relative = np.exp(-0.5 * self._above(criterion))
        return relative / np.nansum(relative)

    def _above(self, criterion: np.ndarray) -> np.ndarray:
        """By how much each exceeds the least."""
        return criterion - (np.nanmin(criterion) if np.isfinite(criterion).any() else np.nan)

    def choose(self, by: str | None = None) -> str:
        """The name of the best by a criterion; None: by that of this comparison."""
        return self.names[self._best(by or self.by)]

    def _best(self, by: str) -> int:
        criterion = getattr(self, by)
        if not np.isfinite(criterion).any():
            raise ValueError(f"none of the fits has {CRITERIA[by]}, got {', '.join(self.notes) or 'NaN'}")
        return int(np.nanargmin(criterion))

    @property
    def best(self) -> Any:
        """The fit that the criterion chooses."""
        return self.fits[self._best(self.by)]

    @property
    def ties(self) -> tuple[str, ...]:
        """The names that the criterion does not tell apart from the best, the best among them; empty where it stands alone.

        Within 1 of half a criterion, a factor e of the likelihood; losses on data held out that are none tie where they are equal; of cross-validations, within one standard error of the
        paired difference.
        """
        best = self._best(self.by)
        near = self._gap(best) < TIE
        near[best] = True
        return tuple(name for name, one in zip(self.names, near, strict=True) if one) if near.sum() > 1 else ()

    def _gap(self, best: int) -> np.ndarray:
        """How far each is from the best, of what makes a tie."""
        if isinstance(self.fits[0], CrossValidation):
            apart = [self.fits[i].difference(self.fits[best]) for i in range(len(self)) if i != best]
            gaps = [abs(mean) / error if error > 0 else (0.0 if mean == 0 else np.inf) for mean, error in apart]
            return np.insert(np.array(gaps, float), best, 0.0)
        above = self._above(getattr(self, self.by))
        if self.by != "held_out":
            above = above / 2
        elif self.fits[0].loss_name not in IN_NAT:
            above = np.where(above == 0, 0.0, np.inf)  # nothing tells how far apart other losses must be
        return np.nan_to_num(above, nan=np.inf)

    def to_frame(self) -> pd.DataFrame:
        """One row a fit: k, ln L, criteria, their differences from the least, Akaike weights, the score on data held out."""
        import pandas as pd

        columns: dict[str, Any] = {"k": self.k, "ln L": self.log_likelihood}
        for name in ("aic", "aicc", "bic"):
            criterion = getattr(self, name)
            columns |= {CRITERIA[name]: criterion, f"Δ{CRITERIA[name]}": self._above(criterion)}
        columns |= {"weight": self.weights, "held out": self.held_out}
        return pd.DataFrame(columns, index=pd.Index(self.names, name="fit")).dropna(axis=1, how="all")

    def summary(self) -> str:
        """The table, which fit each criterion chooses, ties, tests of nested fits, and what there is to say."""
        frame, lines = self.to_frame(), []
        shown = [name for name in frame.columns if not name.startswith(("AIC", "BIC"))]
        digits = lambda name, value: f"{value:.2f}" if name[0] in "Δlwh" and abs(value) < 1e6 else f"{value:.6g}"
        rows = [("fit", *shown)]
        for name, row in zip(self.names, frame[shown].to_numpy(float), strict=True):
            rows.append((name, *(digits(column, one) for column, one in zip(shown, row, strict=True))))
        lines += [table(rows, header=True), ""]
        chosen: dict[str, list[str]] = {}
        for by, title in CRITERIA.items():
            if np.isfinite(getattr(self, by)).any():
                chosen.setdefault(self.choose(by), []).append(title)
        lines += [f"{', '.join(titles)}: {name}" for name, titles in chosen.items()]
        for by in CRITERIA:
            if np.isfinite(getattr(self, by)).any():
                lines += self._told_ties(by)
        for one in self.tests:
            p = f"p = {one.p:.2g}"
            lines.append(
                f"likelihood ratio, {one.small} in {one.large}: 2 Δ ln L = {one.statistic:.2f} with {one.freedom:g} more, {p}; {one.known}"
            )
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def _told_ties(self, by: str) -> list[str]:
        one = replace(self, by=by)
        if not (ties := one.ties):
            return []
        gaps = one._gap(one._best(by))
        far = max(gaps[self.names.index(name)] for name in ties)
        if isinstance(self.fits[0], CrossValidation):
            what = f"by cross-validation, within {far:.2f} standard errors of the difference"
        else:
            what = f"by {CRITERIA[by]}{'' if by == 'held_out' else '/2'}, within {far:.2g} (less than 1)"
        return [f"tie {what}: {', '.join(ties)}"]

    __str__ = summary
    __repr__ = summary

    def plot(self) -> Figure:
        """Draw by how much each fit exceeds the best, by each criterion.

        Returns:
            A matplotlib figure.
        """
        from jaxdiff.reports import selection

        return selection.comparison(self)
