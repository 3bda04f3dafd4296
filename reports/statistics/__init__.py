"""Statistics of results: pure functions on counts and arrays. Which estimator is used where: docs/statistics.md."""

from reports.statistics.binary import clustered_mcnemar, mcnemar, odds_ratio, paired_proportions
from reports.statistics.bootstrap import cluster_bootstrap, jackknife, ratio
from reports.statistics.estimate import Estimate
from reports.statistics.means import (
    clustered_mean,
    design_effect,
    intraclass_correlation,
    standard_error,
    stratified_mean,
    two_way_standard_error,
)
from reports.statistics.multiple import benjamini_hochberg, holm
from reports.statistics.paired import (
    MarginTest,
    PairedResult,
    equivalence,
    non_inferiority,
    paired_difference,
    sign_flip,
)
from reports.statistics.power import minimal_detectable_effect, needed_n
from reports.statistics.proportions import ProportionMethod, binomial_p, mid_p, proportion_interval

__all__ = [
    "Estimate",
    "MarginTest",
    "PairedResult",
    "ProportionMethod",
    "benjamini_hochberg",
    "binomial_p",
    "cluster_bootstrap",
    "clustered_mcnemar",
    "clustered_mean",
    "design_effect",
    "equivalence",
    "holm",
    "intraclass_correlation",
    "jackknife",
    "mcnemar",
    "mid_p",
    "minimal_detectable_effect",
    "needed_n",
    "non_inferiority",
    "odds_ratio",
    "paired_difference",
    "paired_proportions",
    "proportion_interval",
    "ratio",
    "sign_flip",
    "standard_error",
    "stratified_mean",
    "two_way_standard_error",
]
