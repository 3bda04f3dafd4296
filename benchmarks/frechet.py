"""Distances between two sets of image features, with their errors: Fréchet distance, its limit, kernel distance.

On arrays only. Values follow clean-fid 0.1.35 (cleanfid/fid.py) in dtype and order of operations; the Fréchet distance
takes the trace of the matrix root from eigenvalues, which needs no ``scipy.linalg.sqrtm`` (its ``disp`` argument, which
clean-fid passes, is gone in scipy 1.18).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

#: float32 or float64 [n, d]; the dtype counts, see ``moments``.
Features = NDArray[Any]

_SMALLEST_PIVOT = 1e-10  # of the largest; n = d gives pivots of 1e-15 to 1e-12 that should be 0
_ROWS = 4096  # rows of 2048 float64 worked on at once: 64 MiB


@dataclass(frozen=True)
class Moments:
    """``mean`` [d] in the dtype of the features, ``covariance`` float64 [d, d] with divisor n - 1."""

    mean: NDArray[Any]
    covariance: NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error; None where the data cannot give one."""

    value: float
    error: float | None


def moments(features: Features) -> Moments:
    """Mean and covariance of ``features`` [n, d], n >= 2.

    The mean of float32 features is a float32 sum in the order of the rows (clean-fid, fid_from_feats): at n = 15,000 it
    moves a distance by about 5e-6. The covariance is float64 whatever the features are.
    """
    return Moments(np.mean(features, axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), the squared 2-Wasserstein distance of two Gaussians.

    Full-rank covariances give clean-fid's value to about 1e-11. Singular ones leave rounding noise of the size of
    sqrt(1e-16) per dimension in the root; it is clean-fid's own noise, because the eigenvalues are those of the product
    that clean-fid takes the root of. clean-fid raises where the root has a large imaginary part; here that is dropped.
    """
    difference = a.mean - b.mean
    # The square in the means' own dtype, as clean-fid's frechet_distance has it.
    squared = difference.dot(difference)
    return float(squared + np.trace(a.covariance) + np.trace(b.covariance) - 2 * _trace_of_root(a, b))


def _trace_of_root(a: Moments, b: Moments) -> float:
    """tr (S_a S_b)^(1/2): the sum of the roots of the product's eigenvalues, which are real and not negative."""
    if is_positive_definite(a.covariance) and is_positive_definite(b.covariance):
        # Through the Cholesky factor of S_b the problem is symmetric: six to nine times faster than sqrtm at 2048.
        eigenvalues = linalg.eigh(a.covariance, b.covariance, type=2, eigvals_only=True, check_finite=False)
        return float(np.sqrt(np.maximum(eigenvalues, 0)).sum())
    eigenvalues = linalg.eigvals(a.covariance @ b.covariance, check_finite=False)
    return float(np.sqrt(eigenvalues.astype(np.complex128)).real.sum())


def is_positive_definite(covariance: NDArray[np.float64]) -> bool:
    """Whether the Cholesky factor exists and no pivot is so small that rounding alone could have made it."""
    try:
        pivots = np.diag(linalg.cholesky(covariance, lower=True, check_finite=False)) ** 2
    except linalg.LinAlgError:
        return False
    return bool(pivots.min() > _SMALLEST_PIVOT * pivots.max())


def frechet_error(features: Features, reference: Moments, strata: NDArray[np.intp] | None = None) -> float | None:
    """Standard error of the Fréchet distance of ``features`` [n, d] to a fixed reference.

    The infinitesimal jackknife (Jaeckel 1972; Efron 1982, SIAM CBMS 38, ch. 6): the standard deviation of the images'
    influences, divided by sqrt(n). With the optimal map T = S_r (S_r S S_r)^(-1/2) S_r, where S_r is the root of the
    reference's covariance, an image x at c = x - m has the influence 2 c (m - m_ref) + c c - c T c, because the
    distance's derivative is 2 (m - m_ref) by the mean and I - T by the covariance (Takatsu 2011, Osaka J. Math. 48).

    It says how far the value would move with other images of the same model, as many of them. It says nothing about the
    bias, which depends on n, nor about the reference. None for singular covariances.

    ``strata`` [n], numbered from 0, are categories with a fixed number of images each: what lies between them is no
    part of the error.
    """
    own = moments(features)
    if not (is_positive_definite(own.covariance) and is_positive_definite(reference.covariance)):
        return None
    factor = linalg.cholesky(reference.covariance, lower=True, check_finite=False)
    # With S_ref = L L^t and L^t S L = U e U^t the map is T = L U e^(-1/2) U^t L^t.
    eigenvalues, vectors = linalg.eigh(factor.T @ own.covariance @ factor, check_finite=False, overwrite_a=True)
    directions, shift = factor @ vectors, own.mean.astype(np.float64) - reference.mean
    influence = np.empty(len(features))
    for start in range(0, len(features), _ROWS):
        centered = features[start : start + _ROWS] - own.mean.astype(np.float64)
        mapped = (centered @ directions) ** 2 @ eigenvalues**-0.5
        influence[start : start + _ROWS] = 2 * centered @ shift + (centered**2).sum(axis=1) - mapped
    return _stratified_error(influence, np.zeros(len(features), np.intp) if strata is None else strata)


def _stratified_error(values: NDArray[np.float64], strata: NDArray[np.intp]) -> float:
    """Standard error of the mean of ``values`` where each stratum has a fixed number of them.

    Where a stratum has one value only, strata are ignored, which errs to the wide.
    """
    sizes = np.bincount(strata)
    if sizes.min() < 2:
        return _stratified_error(values, np.zeros_like(strata))
    means = np.bincount(strata, weights=values) / sizes
    squares = np.bincount(strata, weights=(values - means[strata]) ** 2)
    return float(np.sqrt(np.sum(squares * sizes / (sizes - 1)))) / len(values)


def frechet_limit(features: Features, reference: Moments, seed: int, error: float | None) -> Estimate | None:
    """The Fréchet distance extrapolated to infinitely many images (FID-infinity, Chong & Forsyth 2020, CVPR).

    A line through the distances of 15 random subsets against 1 / size, at 0. Sizes are evenly spaced from n / 6 (their
    5,000 where there are 30,000 images), or d + 1 if that is more, to n. ``error`` is the distance's own standard error
    at n: the line's is added in quadrature, since a subset's distance shares the luck of the whole set.
    None where n is so near to d that there are fewer than three sizes.
    """
    from scipy import stats  # half a second

    count, dimension = features.shape
    smallest = max(count // 6, dimension + 1)
    if count - smallest < 2:
        return None
    sizes = np.unique(np.linspace(smallest, count, 15).astype(int))
    rng = np.random.default_rng(seed)
    distances = [
        # Rows stay in their order, for the float32 mean.
        frechet_distance(moments(features[np.sort(rng.permutation(count)[:size])]), reference)
        for size in sizes
    ]
    line = stats.linregress(1 / sizes, distances)
    return Estimate(float(line.intercept), None if error is None else float(np.hypot(error, line.intercept_stderr)))


def kernel_distance(
    features: Features, reference: Features, seed: int, subsets: int = 100, subset_size: int = 1000
) -> float:
    """The kernel distance (KID, Binkowski et al. 2018) of clean-fid's kernel_distance, in the dtype of the features.

    The mean over random subsets of the unbiased squared MMD under the kernel (x y / d + 1)^3. The random numbers are
    those of ``np.random.seed(seed)``, without which clean-fid's value differs from call to call. Its subsets are drawn
    from the second set first: ``features`` are its first argument, ``reference`` its second.
    """
    size = min(len(features), len(reference), subset_size)
    random = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        x = reference[random.choice(len(reference), size, replace=False)]
        y = features[random.choice(len(features), size, replace=False)]
        total += _scaled_mmd(x, y)
    return float(total / subsets / size)


def _scaled_mmd(x: Features, y: Features) -> Any:
    """len(x) times the unbiased squared MMD of two sets of equal size, in their dtype."""
    size, dimension = x.shape
    within = (x @ x.T / dimension + 1) ** 3 + (y @ y.T / dimension + 1) ** 3
    between = (x @ y.T / dimension + 1) ** 3
    return (within.sum() - np.diag(within).sum()) / (size - 1) - between.sum() * 2 / size


def kernel_error(features: Features, reference: Features, block_size: int = 1000) -> float | None:
    """Standard error of the kernel distance, from disjoint blocks of both sets (block estimator: Zaremba et al. 2013).

    There are ``n // block_size`` blocks, but ten at least. Block k has the rows k, k + blocks, and so on, so that sets
    sorted by category give blocks of equal mixture. Blocks smaller than the kernel distance's subsets make the error
    too large, not too small. None for fewer than 20 rows in a set.
    """
    count = min(len(features), len(reference))
    blocks = max(10, count // block_size)
    size = count // blocks
    if size < 2:
        return None
    values = [_scaled_mmd(reference[k::blocks][:size], features[k::blocks][:size]) / size for k in range(blocks)]
    return float(np.std(values, ddof=1)) / float(np.sqrt(blocks))
