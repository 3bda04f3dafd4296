"""Preferences, ratings, agreement, annotators, tables: a second implementation, textbook results, simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.statistics.agreement import (
    agreement,
    cohen_kappa,
    intraclass_correlations,
    krippendorff_alpha,
    pair_counts,
    rating_counts,
)
from reports.statistics.annotators import dawid_skene
from reports.statistics.means import intraclass_correlation
from reports.statistics.mixed import random_intercept_logit
from reports.statistics.preference import (
    cohen_h,
    elo,
    gee_win_logit,
    half_win_p,
    net_margin,
    sign_test,
    tie_models,
)
from reports.statistics.ratings import fit_ratings, rao_kupper
from reports.statistics.tables import (
    bowker,
    cochran_q,
    friedman,
    homogeneity,
    mantel_haenszel,
    marginal_homogeneity,
    wilcoxon,
)

#: A round of four models, each pair with wins of both and ties.
PAIRS = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
ROUNDS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 15)), min_size=6, max_size=6)


@settings(max_examples=25, deadline=None)
@given(ROUNDS)
def test_ratings_are_evalicas(counts: list[tuple[int, int, int]]) -> None:
    """evalica's Newman iteration is Davidson's model with v = nu / 2; its Bradley-Terry counts a tie as half a win."""
    import evalica

    first, second = zip(*PAIRS, strict=True)
    xs, ys, winners = [], [], []
    for (one, other), (wins, losses, ties) in zip(PAIRS, counts, strict=True):
        xs += [one] * (wins + losses + ties)
        ys += [other] * (wins + losses + ties)
        winners += [evalica.Winner.X] * wins + [evalica.Winner.Y] * losses + [evalica.Winner.Draw] * ties
    won, lost, tied = zip(*counts, strict=True)
    newman = evalica.newman(xs, ys, winners, tolerance=1e-12, limit=10_000)
    davidson = fit_ratings(first, second, won, lost, tied)
    scores = newman.scores.sort_index()
    assert davidson.worth == pytest.approx((scores / scores.sum()).tolist(), abs=1e-5)
    assert davidson.tie == pytest.approx(2 * newman.v, abs=1e-4)
    bradley_terry = evalica.bradley_terry(xs, ys, winners, tolerance=1e-12, limit=10_000).scores.sort_index()
    half = fit_ratings(first, second, won, lost, tied, "half")
    assert half.worth == pytest.approx((bradley_terry / bradley_terry.sum()).tolist(), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30))
def test_two_sides_have_the_closed_forms(wins: int, losses: int, ties: int) -> None:
    closed = tie_models(wins, losses, ties)
    fit = fit_ratings(["a"], ["b"], [wins], [losses], [ties])
    assert fit.contrast("a", "b").value == pytest.approx(closed.davidson_log_ratio, abs=1e-7)
    assert fit.tie == pytest.approx(closed.davidson_nu)
    assert fit.deviance == pytest.approx(0, abs=1e-8)
    threshold = rao_kupper(["a"], ["b"], [wins], [losses], [ties])
    ratio = math.exp(threshold.log_worth[0] - threshold.log_worth[1])
    assert ratio == pytest.approx(closed.rao_kupper_ratio, rel=1e-3)
    assert threshold.theta == pytest.approx(closed.rao_kupper_theta, rel=1e-3)


def test_rows_of_judgments_are_rows_of_counts() -> None:
    """And each judgment as its own group gives almost the information's covariance."""
    rng = np.random.default_rng(0)
    names = np.array(["a", "b", "c"])
    worth = np.array([0.6, 0.0, -0.6])
    pairs = np.array([(0, 1), (0, 2), (1, 2)])[rng.integers(0, 3, 3000)]
    won = rng.random(3000) < 1 / (1 + np.exp(worth[pairs[:, 1]] - worth[pairs[:, 0]]))
    first, second = names[pairs[:, 0]].tolist(), names[pairs[:, 1]].tolist()
    single = fit_ratings(first, second, won, ~won, groups=range(3000))
    rows = [won[(pairs == pair).all(axis=1)] for pair in ((0, 1), (0, 2), (1, 2))]
    together = fit_ratings(["a", "a", "b"], ["b", "c", "c"], [sum(row) for row in rows], [sum(~row) for row in rows])
    assert single.log_worth == pytest.approx(together.log_worth, abs=1e-8)
    assert single.log_worth == pytest.approx(worth, abs=0.15)
    assert np.sqrt(np.diag(single.covariance)) == pytest.approx(np.sqrt(np.diag(together.covariance)), rel=0.05)


def test_judgments_that_repeat_a_prompt_widen_the_interval() -> None:
    """Every judgment three times over: the sandwich by prompt is that of one each, the naive one sqrt(3) too narrow."""
    rng = np.random.default_rng(1)
    won = rng.random(300) < 0.6
    once = fit_ratings(["a"] * 300, ["b"] * 300, won, ~won, groups=range(300))
    thrice = np.repeat(won, 3)
    clustered = fit_ratings(["a"] * 900, ["b"] * 900, thrice, ~thrice, groups=np.repeat(np.arange(300), 3))
    naive = fit_ratings(["a"] * 900, ["b"] * 900, thrice, ~thrice)
    assert clustered.covariance == pytest.approx(once.covariance, rel=1e-6)
    assert naive.covariance * 3 == pytest.approx(once.covariance, rel=0.02)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b", 8, 0, 2)], "infinite"),
        ([("a", "b", 3, 2, 0), ("c", "d", 1, 1, 0)], "no chain of judgments connects a and c"),
        ([("a", "b", 3, 2, 0), ("b", "c", 4, 0, 0)], "infinite"),
        ([("a", "a", 3, 2, 0)], "itself"),
        ([("a", "b", -1, 2, 0)], "negative"),
        ([("a", "b", 0, 0, 0)], "all 0"),
    ],
)
def test_ratings_that_do_not_exist(rows: list[tuple[str, str, int, int, int]], message: str) -> None:
    first, second, wins, losses, ties = (list(column) for column in zip(*rows, strict=True))
    with pytest.raises(ValueError, match=message):
        fit_ratings(first, second, wins, losses, ties)


def test_who_always_takes_one_side_has_no_finite_order_effect() -> None:
    sides = ["a"] * 60 + ["b"] * 60, ["b"] * 60 + ["a"] * 60
    with pytest.raises(ValueError, match="the same side always wins"):
        fit_ratings(*sides, [1] * 120, [0] * 120, order_effect=True)
    ties = [1] + [0] * 119
    with pytest.raises(ValueError, match="the same side always wins"):
        fit_ratings(*sides, [1 - tie for tie in ties], [0] * 120, ties, order_effect=True)


@pytest.mark.parametrize(
    ("first", "second", "wins", "losses", "ties"),
    [
        (["A"], ["B"], [10], [0], [5]),  # the more A is ahead, the likelier, with ties kept by a higher threshold
        (["A", "A", "B"], ["B", "C", "C"], [5, 6, 4], [0, 0, 3], [0, 0, 1]),
    ],
)
def test_rao_kupper_has_no_maximum_for_a_model_that_never_loses(
    first: list[str], second: list[str], wins: list[int], losses: list[int], ties: list[int]
) -> None:
    with pytest.raises(ValueError, match="never lose to the others"):
        rao_kupper(first, second, wins, losses, ties)


def test_rao_kupper_is_finite_where_ties_hold_a_model_back() -> None:
    """A never loses, but ties, and the others' wins bound the threshold."""
    fit = rao_kupper(["A", "A", "B"], ["B", "C", "C"], [5, 6, 4], [0, 0, 3], [2, 1, 1])
    assert fit.log_worth[0] > max(fit.log_worth[1:])
    level = rao_kupper(["a", "b"], ["b", "c"], [5, 0], [5, 0], [2, 6])  # c is known by ties alone
    assert level.log_worth == pytest.approx((0, 0, 0), abs=1e-4)


def test_an_order_effect_needs_both_orders() -> None:
    """First wins 70 of 100 whoever it is: the order explains all."""
    both = fit_ratings(["a", "b"], ["b", "a"], [70, 70], [30, 30], order_effect=True)
    assert both.order == pytest.approx(math.log(7 / 3))
    assert both.contrast("a", "b").value == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="one order only"):
        fit_ratings(["a"], ["b"], [70], [30], order_effect=True)


def test_a_model_known_by_ties_alone_has_a_worth() -> None:
    fit = fit_ratings(["a", "b"], ["b", "c"], [5, 0], [5, 0], [2, 6])
    assert fit.log_worth == pytest.approx((0, 0, 0), abs=1e-6)
    with pytest.raises(ValueError, match="no ties"):
        rao_kupper(["a"], ["b"], [3], [4], [0])


def test_sign_tests_without_decisive_judgments() -> None:
    test = sign_test(0, 0)
    assert (test.p, test.p_mid, test.z, test.p_z) == (1, 1, None, None)
    assert test.note
    assert net_margin(0, 0, 5).low is None
    assert net_margin(4, 0).note
    assert half_win_p(0, 0, 9) == 1
    assert tie_models(8, 0, 2).davidson_log_ratio is None
    assert sign_test(5, 5).z_corrected == 0
    assert cohen_h(1.0) == pytest.approx(math.pi / 2)
    for call in (lambda: sign_test(-1, 2), lambda: net_margin(0, 0), lambda: half_win_p(0, 0, 0)):
        with pytest.raises(ValueError, match="judgments"):
            call()


def test_gee_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="both sides"):
        gee_win_logit([1, 1, 0], ["a", "b", "c"])
    with pytest.raises(ValueError, match="votes"):
        gee_win_logit([2, -1], ["a", "b"])


def test_elo_gives_what_it_takes() -> None:
    ratings = elo(["a", "b", "a"], ["b", "c", "c"], [1, 0.5, 0])
    assert sum(ratings.values()) == pytest.approx(3000)
    with pytest.raises(ValueError, match="score"):
        elo(["a"], ["b"], [2])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0, math.nan]), min_size=6, max_size=6), min_size=2, max_size=5))
def test_alpha_is_evalicas(ratings: list[list[float]]) -> None:
    import evalica

    values = np.array(ratings)
    if np.isnan(values).all():
        return
    counts, categories = rating_counts(values)
    for scale in ("nominal", "ordinal", "interval", "ratio"):
        found = krippendorff_alpha(counts, categories, scale)
        paired = counts[counts.sum(axis=1) > 1]
        if not len(paired) or np.count_nonzero(paired.sum(axis=0)) < 2:
            assert found.value is None
            assert found.note
        else:
            assert found.value == pytest.approx(evalica.alpha(pd.DataFrame(values), distance=scale).alpha, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=2, max_size=12))
def test_fleiss_is_statsmodels(ratings: list[list[int]]) -> None:
    from statsmodels.stats.inter_rater import fleiss_kappa

    counts, _ = rating_counts(np.array(ratings, float).T, [0, 1, 2])
    found = agreement(counts).fleiss
    if np.count_nonzero(counts.sum(axis=0)) == 1:
        assert found.value is None
        assert found.note
    else:
        assert found.value == pytest.approx(float(fleiss_kappa(counts)))


def test_perfect_agreement_is_one_and_chance_near_zero() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 2000).astype(float)
    same = agreement(rating_counts(np.stack([truth] * 4))[0])
    assert (same.observed, same.fleiss.value, same.ac1.value, same.unanimous) == (1, 1, 1, 2000)
    random = rng.integers(0, 3, (4, 2000))
    table = np.zeros((3, 3))
    np.add.at(table, (random[0], random[1]), 1)
    found = agreement(rating_counts(random)[0])
    for coefficient in (found.fleiss, found.ac1, found.brennan_prediger, cohen_kappa(table)):
        assert coefficient.value == pytest.approx(0, abs=0.05)
    assert agreement(pair_counts(table)).observed == pytest.approx(np.trace(table) / table.sum())


def test_agreement_that_is_undefined() -> None:
    with pytest.raises(ValueError, match="at least one rating"):
        rating_counts([[math.nan, math.nan]])
    with pytest.raises(ValueError, match="outside the categories"):
        rating_counts([[1.0, 7.0]], [1, 2])
    assert cohen_kappa([[5, 0], [0, 0]]).value is None
    for table in ([[0, 0, 0], [0, 0, 0], [0, 1, 2]], [[3, 2], [0, 0]], [[0, 4], [0, 0]]):
        assert cohen_kappa(table) == cohen_kappa(np.transpose(table))
        assert (cohen_kappa(table).value, cohen_kappa(table).standard_error) == (0, None)
        assert "one category only" in cohen_kappa(table).note
    lonely = agreement([[1, 0], [0, 1]])
    assert lonely.observed is None
    assert lonely.ac1.note
    with pytest.raises(ValueError, match="units do not differ"):
        intraclass_correlations([[1, 2], [1, 2]])
    matrix = np.array([[9, 2, 5], [6, 1, 3], [8, 4, 6], [7, 1, 2.0]])
    single = intraclass_correlation(matrix.ravel(), np.repeat(np.arange(4), 3))
    assert intraclass_correlations(matrix).icc11 == pytest.approx(single)


def test_dawid_skene_recovers_annotators() -> None:
    """Five annotators of known accuracy, one of whom guesses: the truth of 2,000 items is found better than by vote."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 2000)
    accuracy = [0.9, 0.8, 0.75, 0.7, 1 / 3]
    given_ = np.array([np.where(rng.random(2000) < a, truth, rng.integers(0, 3, 2000)) for a in accuracy])
    items, raters = np.tile(np.arange(2000), 5), np.repeat(np.arange(5), 2000)
    fit = dawid_skene(items, raters, given_.ravel())
    assert fit.converged
    diagonal = np.array([np.trace(matrix) / 3 for matrix in fit.confusion])
    assert diagonal == pytest.approx([a + (1 - a) / 3 for a in accuracy], abs=0.04)
    votes = np.array([np.bincount(column, minlength=3).argmax() for column in given_.T])
    assert np.mean(fit.posterior.argmax(axis=1) == truth) > np.mean(votes == truth)
    with pytest.raises(ValueError, match="no ratings"):
        dawid_skene([], [], [])


def test_random_intercepts_are_recovered() -> None:
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(400), 5)
    logit = 0.3 + rng.normal(0, 1, 400)[group]
    won = (rng.random(2000) < 1 / (1 + np.exp(-logit))).astype(float)
    fit = random_intercept_logit(won, np.ones(2000), np.ones((2000, 1)), group, points=15)
    assert fit.coefficients[0] == pytest.approx(0.3, abs=3 * fit.standard_errors[0])
    assert fit.sd == pytest.approx(1, abs=0.2)
    with pytest.raises(ValueError, match="full rank"):
        random_intercept_logit([1, 0], [1, 1], [[1, 1], [1, 1]], ["a", "b"])
    with pytest.raises(ValueError, match="no finite maximum"):
        random_intercept_logit([4, 4, 4], [4, 4, 4], np.ones((3, 1)), ["a", "b", "c"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(1, 20), min_size=3, max_size=3), min_size=3, max_size=3))
def test_symmetry_is_statsmodels(table: list[list[int]]) -> None:
    from statsmodels.stats.contingency_tables import SquareTable

    expected = SquareTable(np.array(table, float), shift_zeros=False).symmetry()
    found = bowker(table)
    assert (found.statistic, found.df, found.p) == pytest.approx((expected.statistic, expected.df, expected.pvalue))


def test_tables_without_anything_to_compare() -> None:
    for test in (
        bowker([[4, 0], [0, 5]]),
        marginal_homogeneity([[4, 0], [0, 5]]),
        cochran_q([[1, 1], [0, 0]]),
        friedman([[1, 1, 1], [2, 2, 2]]),
    ):
        assert (test.statistic, test.p) == (0, 1)
    assert wilcoxon([0, 0]).note
    with pytest.raises(ValueError, match="two rows and two columns"):
        homogeneity([[3, 4], [0, 0]])
    with pytest.raises(ValueError, match="odds ratio"):
        mantel_haenszel([[[3, 0], [0, 3]]])
    with pytest.raises(ValueError, match="square"):
        bowker([[1, 2, 3], [4, 5, 6]])
    assert "rough" in homogeneity([[2, 3], [4, 1]]).test.note


def test_cochrans_q_of_two_runs_is_mcnemar() -> None:
    outcomes = [[1, 0]] * 12 + [[0, 1]] * 5 + [[1, 1]] * 20
    assert cochran_q(outcomes).statistic == pytest.approx(49 / 17)


def test_nothing_but_ties_has_no_maximum() -> None:
    with pytest.raises(ValueError, match="every judgment is a tie"):
        fit_ratings(["a", "a"], ["b", "b"], [0, 0], [0, 0], [1, 1])


def test_prompts_that_say_the_same_give_no_interval() -> None:
    """Each prompt has two wins and one loss of a: the scores of every prompt cancel at the maximum."""
    found = fit_ratings(["a"] * 4, ["b"] * 4, [2] * 4, [1] * 4, groups=range(4)).contrast("a", "b")
    assert found.value == pytest.approx(math.log(2))
    assert (found.low, found.high) == (None, None)
    assert "do not differ" in found.note
