"""What every estimate looks like, and the checks that every function makes of its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = "NDArray[np.float64]"
Codes: TypeAlias = "NDArray[np.intp]"
#: Names of groups, strata or raters, one per value.
Labels: TypeAlias = "Sequence[str] | Sequence[int] | NDArray[Any]"


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence limits, in the unit of the data.

    ``low`` and ``high`` are None where the data cannot give them; ``note`` then says why, and also when an interval
    had to be made in another way than usual.
    """

    value: float
    low: float | None
    high: float | None
    note: str = ""

    def scaled(self, factor: float) -> Estimate:
        """The same in a unit ``factor`` (> 0) times smaller: a share of full marks as points."""
        low, high = (None if limit is None else limit * factor for limit in (self.low, self.high))
        return Estimate(self.value * factor, low, high, self.note)


def array(values: ArrayLike, name: str = "values") -> Floats:
    """``values`` as finite floats, one axis, at least one; ValueError otherwise."""
    result = np.asarray(values, dtype=np.float64)
    if result.ndim != 1 or result.size == 0:
        raise ValueError(f"{name} must be a list of at least one number; its shape is {result.shape}")
    if not bool(np.isfinite(result).all()):
        raise ValueError(f"{name} must be finite; NaN or infinity at position {int(np.argmin(np.isfinite(result)))}")
    return result


def table(counts: ArrayLike, name: str = "table") -> Floats:
    """``counts`` as a two-way table of finite numbers that are not negative and not all 0; ValueError otherwise."""
    result = np.asarray(counts, dtype=np.float64)
    if result.ndim != 2 or not bool(np.isfinite(result).all()) or bool((result < 0).any()) or not bool(result.any()):
        raise ValueError(f"{name} must hold counts in rows and columns, none negative and not all 0")
    return result


def coded(labels: Labels, n: int, name: str) -> tuple[Codes, list[Any]]:
    """Each label's number, 0 to K - 1, and the K names in order. ValueError unless there are ``n`` labels."""
    given = np.asarray(labels)
    if given.shape != (n,):
        raise ValueError(f"{n} values but {given.size} {name}")
    if n and given.dtype.kind == "i" and given.min() >= 0 and given.max() < 2 * n:
        # Numbers that are codes already, but for gaps: without the sort of np.unique.
        present = np.bincount(given) > 0
        return (np.cumsum(present) - 1)[given], np.flatnonzero(present).tolist()
    names, codes = np.unique(given, return_inverse=True)
    return codes, names.tolist()


def check_share(value: float, name: str) -> None:
    """ValueError unless ``value`` (a confidence, an alpha, a power) lies between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")


def z_quantile(probability: float) -> float:
    from scipy import special

    return float(special.ndtri(probability))


def z_two_sided(confidence: float) -> float:
    """The standard normal's quantile for a two-sided interval of this confidence."""
    check_share(confidence, "confidence")
    return z_quantile((1 + confidence) / 2)


def t_quantile(probability: float, df: float) -> float:
    from scipy import special

    return float(special.stdtrit(df, probability))


def t_p(t: float, df: float) -> float:
    """Two-sided p-value of Student's t."""
    from scipy import special

    return float(2 * special.stdtr(df, -abs(t)))


def chi2_p(statistic: float, df: float) -> float:
    from scipy import special

    return float(special.chdtrc(df, statistic))


def z_p(z: float) -> float:
    """Two-sided p-value of a standard normal deviate."""
    from scipy import special

    return float(2 * special.ndtr(-abs(z)))
