"""Distances between sets of image features, and what uncertainty they have.

FID's bias falls about as 1/N: compare values of equal N only. Resampling with replacement leaves fewer distinct
images and so inflates FID; disjoint splits do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.statistics.estimate import Estimate, Floats, array, check_share, t_quantile

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def frechet_distance(mean_1: ArrayLike, cov_1: ArrayLike, mean_2: ArrayLike, cov_2: ArrayLike) -> float:
    """Squared Frechet (2-Wasserstein) distance of two normal distributions (Dowson & Landau 1982, J. Multivar. Anal.
    12:450): |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2).

    By symmetric eigenvalues, so that singular covariances need no correction. Raises ValueError for unlike shapes,
    non-finite numbers, or a covariance that is not symmetric and positive semi-definite.
    """
    shift = array(mean_1, "mean") - array(mean_2, "mean")
    root = _root(_covariance(cov_1, len(shift)))
    other = _covariance(cov_2, len(shift))
    _root(other)  # checks that it is positive semi-definite
    product = root @ other @ root
    cross = np.linalg.eigvalsh((product + product.T) / 2)
    trace = float(np.trace(root @ root) + np.trace(other) - 2 * np.sqrt(np.maximum(cross, 0)).sum())
    return float(shift @ shift) + max(0.0, trace)


def fid(features_1: ArrayLike, features_2: ArrayLike) -> float:
    """FID of two sets of features, one row per image, two images at least; covariances over n - 1."""
    first, second = _features(features_1, 2), _features(features_2, 2)
    return frechet_distance(
        first.mean(axis=0), np.cov(first, rowvar=False), second.mean(axis=0), np.cov(second, rowvar=False)
    )


def kid(features_1: ArrayLike, features_2: ArrayLike, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy under the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401);
    unbiased as Gretton et al. (2012, JMLR 13:723) eq. 3, which may be negative."""
    x, y = _features(features_1, 2), _features(features_2, 2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape[1]} and {y.shape[1]} dimensions")

    def kernel(one: Floats, other: Floats) -> Floats:
        result: Floats = (one @ other.T / one.shape[1] + 1) ** 3
        return result

    within = 0.0
    for features in (x, y):
        values, n = kernel(features, features), len(features)
        within += float(values.sum() - np.trace(values)) / (n * (n - 1)) if unbiased else float(values.mean())
    return within - 2 * float(kernel(x, y).mean())


def disjoint_splits(n: int, splits: int, seed: int = 0) -> list[list[int]]:
    """Indices of ``n`` images dealt at random into so many splits of the same size; what is left over is not used."""
    if splits < 2 or n < 2 * splits:
        raise ValueError(f"{n} images do not fill {splits} splits of two or more; two splits at least are needed")
    order = np.random.default_rng(seed).permutation(n)
    size = n // splits
    return [order[start : start + size].tolist() for start in range(0, size * splits, size)]


def split_mean(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The mean of a distance over disjoint splits, with the t interval over splits.

    It is the distance at the size of a split: FID's is larger than that of all images, KID's (unbiased) is not.
    """
    distances = array(values, "distances")
    check_share(confidence, "confidence")
    if len(distances) < 2:
        return Estimate(float(distances[0]), None, None, "one split only: no interval")
    se = float(distances.std(ddof=1)) / math.sqrt(len(distances))
    half = t_quantile((1 + confidence) / 2, len(distances) - 1) * se
    mean = float(distances.mean())
    if half == 0:
        return Estimate(mean, None, None, "all splits have the same distance: no spread to make an interval from")
    return Estimate(mean, mean - half, mean + half, f"at the size of one of {len(distances)} disjoint splits")


@dataclass(frozen=True)
class FidInfinity:
    """The intercept with its t interval, its standard error, and the slope: FID is about intercept + slope / N."""

    intercept: Estimate
    standard_error: float
    slope: float


def fid_infinity(sizes: ArrayLike, distances: ArrayLike, confidence: float = 0.95) -> FidInfinity:
    """FID extrapolated to infinitely many images: intercept of FID against 1/N (Chong & Forsyth 2020, CVPR,
    arXiv:1911.07023). The interval takes the sizes' deviations as independent: use disjoint images.

    Raises ValueError with fewer than three sizes, two of them different, or unlike lengths.
    """
    from scipy import stats

    n, y = array(sizes, "sizes"), array(distances, "distances")
    check_share(confidence, "confidence")
    if len(n) != len(y) or len(n) < 3 or len(np.unique(n)) < 2 or n.min() <= 0:
        raise ValueError("three positive sizes or more, two of them different, and as many distances are needed")
    line = stats.linregress(1 / n, y)
    half = t_quantile((1 + confidence) / 2, len(n) - 2) * float(line.intercept_stderr)
    intercept = float(line.intercept)
    return FidInfinity(
        Estimate(intercept, intercept - half, intercept + half), float(line.intercept_stderr), float(line.slope)
    )


def _features(values: ArrayLike, least: int) -> Floats:
    features = np.asarray(values, dtype=np.float64)
    if features.ndim != 2 or len(features) < least or not bool(np.isfinite(features).all()):
        raise ValueError(f"features must be finite, one row for each of at least {least} images")
    return features


def _covariance(values: ArrayLike, size: int) -> Floats:
    matrix = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if matrix.shape != (size, size) or not bool(np.isfinite(matrix).all()):
        raise ValueError(f"a covariance must be {size} x {size} and finite, not {matrix.shape}")
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-12 * float(np.abs(matrix).max())):
        raise ValueError("a covariance must be symmetric")
    return (matrix + matrix.T) / 2


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh(matrix)
    if values.min() < -1e-6 * max(1e-300, float(values.max())):
        raise ValueError("a covariance must be positive semi-definite")
    root: Floats = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
