"""Scores of groups of questions: MME's image pairs and MMBench's rotations.

Both turn each question's outcome into one value per group; its mean, interval and comparison are then those of any
other value (``stratified_mean``, ``clustered_mean``, ``paired_difference``) with the group as the unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reports.statistics.estimate import Codes, Floats, Labels, coded

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def pair_marks(right: ArrayLike, images: Labels) -> tuple[Floats, list[Any]]:
    """MME's marks of each image, in [0, 200], and the images' names in the order of the marks.

    ``right`` is 1, 0 or NaN (not scored) for each question. The marks are the percentage of the image's questions that
    are right plus 100 if all are, so their mean over a category's images is its accuracy plus accuracy+ (Fu et al.
    2023, arXiv:2306.13394, section 2.2), and perception is the sum of ten categories: the number of categories times
    ``stratified_mean`` with the categories as strata. An image with an unscored question is NaN.
    """
    values, group, names = _outcomes(right, images)
    share = np.bincount(group, weights=values) / np.bincount(group)  # NaN stays NaN
    return 100 * share + 100 * np.where(share == 1, 1, 0), names


def all_right(right: ArrayLike, questions: Labels) -> tuple[Floats, list[Any]]:
    """MMBench's circular hits: 1 for a question with all rotations right, 0 with one wrong, and the questions' names.

    NaN where no rotation is wrong and one (NaN in ``right``) was not scored, since the hit hangs on it.
    """
    values, group, names = _outcomes(right, questions)
    wrong = np.bincount(group, weights=values == 0) > 0
    open_ = np.bincount(group, weights=np.isnan(values)) > 0
    return np.where(wrong, 0.0, np.where(open_, np.nan, 1.0)), names


def _outcomes(right: ArrayLike, groups: Labels) -> tuple[Floats, Codes, list[Any]]:
    values = np.asarray(right, dtype=np.float64)
    if values.ndim != 1 or not bool(np.all((values == 0) | (values == 1) | np.isnan(values))):
        raise ValueError("outcomes must be 1, 0 or NaN, one per question")
    group, names = coded(groups, len(values), "groups")
    return values, group, names
