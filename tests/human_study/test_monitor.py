from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine, select, update

from human_study import database, monitor
from human_study.claims import Assignment
from human_study.design import PAPER_CRITERIA, Choice, Design
from human_study.store import Store
from human_study.tables import AssignmentRow, JudgmentRow, PairRow
from tests.human_study.studies import PLAIN, create, judge_all, vote

ONE = replace(PLAIN, criteria=PAPER_CRITERIA[:1])


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = database.connect(f"sqlite:///{tmp_path}/study.db")
    database.upgrade(engine)
    return engine


def chooser(store: Store, first: str) -> Callable[[Assignment], Choice]:
    """Chooses the pair's first image, or its second."""

    def choose(pair: Assignment) -> Choice:
        with store.reading() as connection:
            left = connection.execute(
                select(AssignmentRow.left_image == PairRow.first_image)
                .join(PairRow, AssignmentRow.pair_id == PairRow.id)
                .where(AssignmentRow.id == pair.id)
            ).scalar_one()
        return "left" if left == (first == "first") else "right"

    return choose


def test_progress_counts_what_stands(engine: Engine) -> None:
    study = create(engine, ONE)
    ann = study.enrol("ann").id
    assert monitor.progress(study, ann) == monitor.Progress(0, False, 0, 12, None)
    for _ in range(5):
        study.submit(ann, vote(study.work(ann)[0]))
    found = monitor.progress(study, ann)
    assert (found.own, found.can_undo, found.done, found.total) == (5, True, 5, 12)
    assert found.seconds_left is not None
    assert found.seconds_left >= 0
    study.undo(ann, study.work(ann)[0].id)
    assert monitor.progress(study, ann).done == 4


def test_the_time_left_follows_from_the_recent_pace(engine: Engine) -> None:
    study = create(engine, ONE)
    ann = study.enrol("ann").id
    judge_all(study, ann)
    with engine.begin() as connection:
        for row in connection.execute(select(JudgmentRow.id).order_by(JudgmentRow.id)).all():
            # Six judgments in the last minute: ten seconds each, for six that are left.
            connection.execute(
                update(JudgmentRow)
                .where(JudgmentRow.id == row.id)
                .values(created_at=time.time() - 60 + 10 * (row.id - 1))
            )
    left = monitor.progress(study, ann).seconds_left
    assert left == pytest.approx(60, abs=2)


def test_annotators_are_reported_by_their_work(engine: Engine) -> None:
    plan = replace(ONE, gold=2, gold_every=3, qualification=2, qualification_passes=0, repeat_every=6)
    study = create(engine, plan, prompts=30)
    good, bad, idle = (study.enrol(name).id for name in ("good", "bad", "idle"))
    by_first, by_second = chooser(study, "first"), chooser(study, "second")
    while held := study.work(good):
        study.submit(good, vote(held[0], by_first(held[0]), ms=4000))
    while held := study.work(bad):
        wrong = held[0].kind in ("gold", "qualification")
        choice: Choice = by_second(held[0]) if wrong else "left"
        study.submit(bad, vote(held[0], choice, ms=500))
    first, second, third = monitor.annotators(study)
    assert (first.judgments, first.gold_right, first.gold_asked) == (30, 4, 4)
    assert (second.judgments, second.gold_right, second.gold_asked) == (30, 0, 4)
    assert first.repeats_same == first.repeats >= 2
    assert second.repeats_same == 0 < second.repeats  # who always chooses the left one changes sides with the images
    assert (first.median_seconds, second.median_seconds, third.median_seconds) == (4.0, 0.5, None)
    assert (first.fast, second.fast, third.fast) == (False, True, False)
    assert second.left_share is not None
    assert second.left_share > 0.9
    assert third == monitor.AnnotatorReport(third.person, 0, 0, 0, 0, 0, 0, None, None, None, False, None)
    assert third.person.id == idle


def test_a_skip_of_a_known_answer_is_no_failure(engine: Engine) -> None:
    study = create(engine, replace(ONE, qualification=2, qualification_passes=0))
    ann = study.enrol("ann").id
    study.submit(ann, vote(study.work(ann)[0], "skip"))  # an image may not have loaded
    study.submit(ann, vote(study.work(ann)[0], "tie"))
    (report,) = monitor.annotators(study)
    assert (report.gold_right, report.gold_asked, report.skips) == (0, 1, 1)


def test_agreement_is_about_images_and_not_about_sides(engine: Engine) -> None:
    study = create(engine, ONE, prompts=10)
    for name in ("ann", "bob"):
        judge_all(study, study.enrol(name).id, chooser(study, "first"))
    (found,) = monitor.agreement(study)
    assert (found.title, found.pairs, found.equal) == ("Visual Quality", 10, 1.0)


def test_agreement_of_the_opposite_and_of_nobody(engine: Engine) -> None:
    study = create(engine, ONE, prompts=10)
    assert monitor.agreement(study) == [monitor.Criterion("Visual Quality", 0, None, None, None)]
    for name, image in (("ann", "first"), ("bob", "second")):
        judge_all(study, study.enrol(name).id, chooser(study, image))
    (found,) = monitor.agreement(study)
    assert (found.pairs, found.equal) == (10, 0.0)
    assert found.alpha is not None
    assert found.alpha < 0


def test_agreement_is_that_of_the_results(engine: Engine) -> None:
    """Without a tie there are two categories: a third would change what AC1 takes for chance."""
    from human_study import export
    from reports.study import analyse

    study = create(engine, ONE, prompts=10)
    judge_all(study, study.enrol("ann").id, chooser(study, "first"))
    judge_all(study, study.enrol("bob").id)
    (found,) = monitor.agreement(study)
    (criterion,) = analyse(pd.DataFrame(export.rows(study), dtype=object)).criteria
    assert criterion.agreement.several is not None
    assert criterion.agreement.alpha_nominal is not None
    assert found.ac1 == criterion.agreement.several.ac1.value
    assert found.alpha == criterion.agreement.alpha_nominal.value


def test_nobody_peeks_at_a_study_of_fixed_size(engine: Engine) -> None:
    study = create(engine, ONE)
    with pytest.raises(PermissionError, match="sequential"):
        monitor.evidence(study)


def test_sequential_evidence_counts_prompts(engine: Engine) -> None:
    plan: Design = replace(ONE, monitoring="sequential")
    study = create(engine, plan, prompts=10)
    judge_all(study, study.enrol("ann").id, chooser(study, "first"))
    assert monitor.evidence(study) == []  # a second vote on each may still turn what the first one said
    judge_all(study, study.enrol("bob").id, chooser(study, "first"))
    (found,) = monitor.evidence(study)
    assert (found.first, found.second, found.first_leads, found.second_leads) == ("alpha", "beta", 10, 0)
    assert found.e_value == pytest.approx(2**10 / 11)  # 2^n B(11, 1) / B(1, 1)


def test_who_waits_for_others_and_who_is_done(engine: Engine) -> None:
    study = create(engine, replace(ONE, judgments_per_pair=1), prompts=2)
    ann, bob = study.enrol("ann").id, study.enrol("bob").id
    held = study.work(ann)
    assert study.work(bob) == []
    assert monitor.waiting(study, bob)
    for pair in held:
        study.submit(ann, vote(pair))
    assert not monitor.waiting(study, bob)
    assert monitor.tasks(study) == (2, 2)


def test_who_has_failed_the_qualification(engine: Engine) -> None:
    study = create(engine, replace(ONE, qualification=2, qualification_passes=2), prompts=8)
    ann, bob = study.enrol("ann").id, study.enrol("bob").id
    judge_all(study, ann, chooser(study, "first"))
    judge_all(study, bob, chooser(study, "second"))
    assert not monitor.disqualified(study, ann)
    assert monitor.disqualified(study, bob)
