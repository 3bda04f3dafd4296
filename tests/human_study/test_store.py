from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Engine, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from benchmarks.types import BenchError
from human_study import audit, database, monitor
from human_study.claims import Assignment, GoldAnswers, gold_answers
from human_study.design import PAPER_CRITERIA, Choice
from human_study.store import RefusedError, Store
from human_study.tables import AssignmentRow, AuditRow, JudgmentRow, PairRow, TaskRow
from tests.human_study.studies import PLAIN, create, judge_all, vote


def rows(study: Store, table: Any, *where: ColumnElement[bool]) -> list[Any]:
    with study.reading() as connection:
        return list(connection.execute(select(table).where(*where).order_by(table.id)))


def states(study: Store) -> Counter[str]:
    return Counter(task.state for task in rows(study, TaskRow))


def expire_leases(study: Store) -> None:
    with study.engine.begin() as connection:
        connection.execute(update(TaskRow).where(TaskRow.state == "leased").values(lease_until=0.0))


def test_two_annotators_fill_every_slot_once(engine: Engine) -> None:
    study = create(engine)  # 6 pairs x 2 criteria x 2 slots
    first, second = study.enrol("first").id, study.enrol("second").id
    assert judge_all(study, first) == 12  # no pair twice under a criterion
    assert judge_all(study, second) == 12
    assert states(study) == {"done": 24}
    shown = Counter((row.annotator_id, row.pair_id, row.criterion) for row in rows(study, AssignmentRow))
    assert set(shown.values()) == {1}
    assert len(rows(study, JudgmentRow)) == 24


def test_an_annotator_has_as_many_pairs_on_either_side_and_so_has_each_pair(engine: Engine) -> None:
    study = create(engine, prompts=8)
    people = [study.enrol(name).id for name in ("first", "second")]
    for person in people:
        judge_all(study, person)
    firsts = {row.id: row.first_image for row in rows(study, PairRow)}
    for person in people:
        own = rows(study, AssignmentRow, AssignmentRow.annotator_id == person)
        for criterion in PAPER_CRITERIA:
            swapped = [row.left_image != firsts[row.pair_id] for row in own if row.criterion == criterion.key]
            assert len(swapped) == 8
            assert sum(swapped) == 4
    per_pair = Counter((row.pair_id, row.criterion, row.left_image) for row in rows(study, AssignmentRow))
    assert set(per_pair.values()) == {1}  # each of its two slots has the other side


def test_criteria_are_judged_one_after_the_other_and_annotators_begin_in_turn(engine: Engine) -> None:
    study = create(engine)
    asked: dict[str, list[str]] = {"first": [], "second": []}
    for name, order in asked.items():
        person = study.enrol(name).id
        for _ in range(6):
            held = study.work(person)
            order.append(held[0].criterion)
            study.submit(person, vote(held[0]))
    assert asked == {"first": ["visual_quality"] * 6, "second": ["prompt_alignment"] * 6}


def test_work_is_the_same_until_it_is_judged(engine: Engine) -> None:
    study = create(engine)
    person = study.enrol("first").id
    held = study.work(person)
    assert len(held) == 2
    assert study.work(person) == held
    study.submit(person, vote(held[0]))
    assert study.work(person)[0] == held[1]


def test_a_vote_sent_twice_is_one_vote_and_the_first_stands(engine: Engine) -> None:
    study = create(engine)
    person = study.enrol("first").id
    pair = study.work(person)[0]
    assert study.submit(person, vote(pair, "left"))
    assert not study.submit(person, vote(pair, "left"))
    assert not study.submit(person, vote(pair, "right"))
    assert [row.choice for row in rows(study, JudgmentRow)] == ["left"]


def test_undo_brings_the_pair_back_and_keeps_every_row(engine: Engine) -> None:
    study = create(engine)
    person = study.enrol("first").id
    pair, after = study.work(person)
    study.submit(person, vote(pair, "left"))
    assert study.undo(person, after.id)
    assert not study.undo(person, after.id)  # the second of two clicks
    again = study.work(person)
    assert [assignment.id for assignment in again[:2]] == [pair.id, after.id]
    assert (again[0].left_token, again[0].right_token) == (pair.left_token, pair.right_token)
    with pytest.raises(RefusedError, match="sent last"):  # from another tab that was not reloaded
        study.submit(person, vote(pair, "left"))
    study.submit(person, vote(again[0], "right"))
    judgments = rows(study, JudgmentRow)
    assert [row.choice for row in judgments] == ["left", "undo", "right"]
    assert [row.supersedes for row in judgments] == [None, judgments[0].id, judgments[1].id]
    assert states(study)["done"] == 1


def test_undo_goes_back_step_by_step_and_from_the_end(engine: Engine) -> None:
    study = create(engine, replace(PLAIN, judgments_per_pair=1), prompts=2)
    person = study.enrol("first").id
    order = []
    while held := study.work(person):
        order.append(held[0].id)
        study.submit(person, vote(held[0]))
    for expected in reversed(order):
        held = study.work(person)
        assert study.undo(person, held[0].id if held else None)
        assert study.work(person)[0].id == expected
    assert not study.undo(person, order[0])  # nothing is left to take back


def test_a_skipped_slot_is_open_to_others_only(engine: Engine) -> None:
    study = create(engine, replace(PLAIN, judgments_per_pair=1), prompts=1)
    first, second = study.enrol("first").id, study.enrol("second").id
    assert judge_all(study, first, lambda _: "skip") == 2
    assert states(study) == {"open": 2}
    assert judge_all(study, second) == 2
    assert states(study) == {"done": 2}
    assert not study.undo(first, None)  # others have done them by now


def test_a_lease_that_ran_out_goes_to_another_and_a_late_vote_is_surplus(engine: Engine) -> None:
    study = create(engine, replace(PLAIN, judgments_per_pair=1, criteria=PAPER_CRITERIA[:1]), prompts=1)
    first, second = study.enrol("first").id, study.enrol("second").id
    late = study.work(first)[0]
    assert study.work(second) == []
    expire_leases(study)
    taken = study.work(second)[0]
    assert study.work(first) == []
    assert study.submit(second, vote(taken))
    assert study.submit(first, vote(late, "right"))  # never lost
    assert [(row.choice, row.surplus) for row in rows(study, JudgmentRow)] == [("left", False), ("right", True)]
    assert states(study) == {"done": 1}


def test_a_late_vote_counts_while_the_slot_is_free(engine: Engine) -> None:
    study = create(engine, replace(PLAIN, judgments_per_pair=1, criteria=PAPER_CRITERIA[:1]), prompts=1)
    first, second = study.enrol("first").id, study.enrol("second").id
    late = study.work(first)[0]
    expire_leases(study)
    taken = study.work(second)[0]
    assert study.submit(first, vote(late))
    assert study.submit(second, vote(taken))
    assert [row.surplus for row in rows(study, JudgmentRow)] == [False, True]


def test_an_expired_lease_is_taken_back_when_nobody_wanted_it(engine: Engine) -> None:
    study = create(engine, prompts=1)
    first, second = study.enrol("first").id, study.enrol("second").id
    held = study.work(first)
    taken = study.work(second)
    expire_leases(study)
    study.submit(second, vote(taken[0]))
    study.work(second)  # opens the expired ones, on pairs that the second annotator has
    assert study.work(first) == held


def test_a_pair_that_was_lost_is_judged_in_another_slot(engine: Engine) -> None:
    study = create(engine, replace(PLAIN, criteria=PAPER_CRITERIA[:1]), prompts=1)
    first, second = study.enrol("first").id, study.enrol("second").id
    held = study.work(first)
    expire_leases(study)
    with study.engine.begin() as connection:  # the other slot is not to be had yet
        connection.execute(update(TaskRow).where(TaskRow.state == "open").values(state="done"))
    assert judge_all(study, second) == 1  # in the slot that was the first annotator's
    assert study.work(first) == []
    with study.engine.begin() as connection:
        connection.execute(update(TaskRow).where(TaskRow.annotator_id.is_(None)).values(state="open"))
    assert study.work(first) == held
    assert study.submit(first, vote(held[0]))
    assert [row.surplus for row in rows(study, JudgmentRow)] == [False, False]


def test_nothing_but_an_annotators_own_pair_can_be_judged(engine: Engine) -> None:
    study = create(engine)
    first, second = study.enrol("first").id, study.enrol("second").id
    pair = study.work(first)[0]
    with pytest.raises(RefusedError, match="not a pair of this annotator"):
        study.submit(second, vote(pair))
    with pytest.raises(RefusedError, match="not a pair of this annotator"):
        study.submit(first, replace(vote(pair), assignment=10**6))
    other = create(engine)
    with pytest.raises(RefusedError, match="not a pair of this annotator"):
        other.submit(first, vote(pair))
    assert rows(study, JudgmentRow) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": "both"}, "no such choice"),
        ({"choice": "undo"}, "no such choice"),
        ({"choice": "tie"}, "no such choice"),
        ({"ms_visible": -1}, "no such time"),
        ({"ms_visible": 2000}, "no such time"),  # longer than in all
        ({"ms_total": 2**31}, "no such time"),
        ({"ms_total": 399, "ms_visible": 100}, "not looked at"),
        ({"page": {"note": "x" * 2000}}, "more about the page"),
        ({"page": {"zooms": float("nan")}}, "no such page"),
        ({"submit_uuid": "made up"}, "sent last"),
    ],
)
def test_votes_that_no_page_sends_are_refused(engine: Engine, change: dict[str, object], message: str) -> None:
    study = create(engine, replace(PLAIN, minimum_view_ms=400, ties=False))
    person = study.enrol("first").id
    with pytest.raises(RefusedError, match=message):
        study.submit(person, replace(vote(study.work(person)[0]), **change))  # type: ignore[arg-type]
    assert rows(study, JudgmentRow) == []


def test_who_fails_the_qualification_gets_no_main_pair(engine: Engine) -> None:
    plan = replace(PLAIN, qualification=4, qualification_passes=3)
    study = create(engine, plan)
    firsts = {row.id: row.first_image for row in rows(study, PairRow)}
    left = {row.id: row for row in rows(study, AssignmentRow)}

    def better(assignment_id: int) -> bool:
        if assignment_id not in left:
            left.update({row.id: row for row in rows(study, AssignmentRow)})
        return bool(left[assignment_id].left_image == firsts[left[assignment_id].pair_id])

    bad, good = study.enrol("bad").id, study.enrol("good").id
    assert judge_all(study, bad, lambda pair: "right" if better(pair.id) else "left") == 4
    with study.reading() as connection:
        assert gold_answers(connection, bad, "visual_quality", "qualification") == GoldAnswers(
            asked=4, answered=4, right=0
        )
    assert judge_all(study, good, lambda pair: "left" if better(pair.id) else "right") == 4 + 6 + 4 + 6
    kinds = [row.kind for row in rows(study, AssignmentRow, AssignmentRow.annotator_id == good)]
    assert kinds == (["qualification"] * 4 + ["main"] * 6) * 2


def test_a_skip_in_the_qualification_is_made_up_for_by_gold(engine: Engine) -> None:
    """An image that could not be loaded is no wrong answer."""
    study = create(engine, replace(PLAIN, qualification=2, qualification_passes=2, gold=1, gold_every=3), prompts=10)
    firsts = {row.id: row.first_image for row in rows(study, PairRow)}
    person, shown = study.enrol("ann").id, 0

    def first_one_fails(pair: Assignment) -> Choice:
        nonlocal shown
        shown += 1
        row = next(row for row in rows(study, AssignmentRow) if row.id == pair.id)
        return "skip" if shown == 1 else "left" if row.left_image == firsts[row.pair_id] else "right"

    judge_all(study, person, first_one_fails)
    kinds = [row.kind for row in rows(study, AssignmentRow)]
    assert kinds[:4] == ["qualification"] * 3 + ["main"]
    assert kinds.count("main") == 2 * 10  # both criteria
    with study.reading() as connection:
        found = gold_answers(connection, person, "visual_quality", "qualification")
    assert found == GoldAnswers(asked=2, answered=2, right=2)
    assert not monitor.disqualified(study, person)


def test_gold_comes_once_and_repeats_come_swapped_and_not_too_soon(engine: Engine) -> None:
    plan = replace(PLAIN, gold=3, gold_every=5, repeat_every=5, judgments_per_pair=1, criteria=PAPER_CRITERIA[:1])
    study = create(engine, plan, prompts=40)
    person = study.enrol("first").id
    votes = judge_all(study, person)
    shown = rows(study, AssignmentRow)
    kinds = Counter(row.kind for row in shown)
    assert kinds["main"] == 40
    assert kinds["gold"] == 3
    assert kinds["repeat"] >= 5
    assert votes == sum(kinds.values())
    main = {row.pair_id: row for row in shown if row.kind == "main"}
    for row in shown:
        if row.kind == "repeat":
            first = main[row.pair_id]
            assert (row.left_image, row.right_image) == (first.right_image, first.left_image)
            assert row.position - first.position >= 10
            assert row.task_id is None  # it fills no slot


def test_enrolling_is_by_name_and_harmless_names_only(engine: Engine) -> None:
    study = create(engine)
    odd = "Robert'); DROP TABLE judgment;--"
    person = study.enrol(odd)
    assert study.enrol(odd) == person
    assert [known.name for known in study.people()] == [odd]
    for name in ("", "   ", "x" * 201, "two\nlines", "nul\x00"):
        with pytest.raises(BenchError, match="printable"):
            study.enrol(name)
    with pytest.raises(BenchError, match="as annotator already"):
        study.enrol(odd, "admin")


def test_the_database_itself_refuses_a_second_vote(engine: Engine) -> None:
    study = create(engine)
    person = study.enrol("first").id
    pair = study.work(person)[0]
    study.submit(person, vote(pair))
    values = {
        "assignment_id": pair.id,
        "choice": "right",
        "ms_visible": 1,
        "ms_total": 1,
        "created_at": 0.0,
        "submit_uuid": "another",
        "surplus": False,
        "page": {},
    }
    for supersedes in (None, rows(study, JudgmentRow)[0].id):
        with pytest.raises(IntegrityError), engine.begin() as connection:  # noqa: PT012
            connection.execute(insert(JudgmentRow).values({**values, "supersedes": supersedes}))
            connection.execute(insert(JudgmentRow).values({**values, "supersedes": supersedes, "submit_uuid": "third"}))


def test_the_audit_log_shows_every_later_change(engine: Engine) -> None:
    study = create(engine)
    person = study.enrol("first").id
    study.consent(person)
    judge_all(study, person)
    study.undo(person, None)

    def fault() -> str | None:
        with study.reading() as connection:
            return audit.fault(connection, study.id)

    assert fault() is None
    events = Counter(row.event for row in rows(study, AuditRow))
    assert events == {"created": 1, "enrolled": 1, "consented": 1, "judgment": 12, "undo": 1}

    def forged(statement: str) -> str | None:
        with engine.connect() as connection:
            transaction = connection.begin()
            if engine.dialect.name == "sqlite":
                connection.execute(text("PRAGMA defer_foreign_keys=ON"))
            connection.execute(text(statement))
            found = audit.fault(connection, study.id)
            transaction.rollback()
            return found

    assert forged("UPDATE judgment SET choice='right' WHERE id=3") == "judgment 3 is not what the audit log says"
    assert forged("UPDATE audit SET payload=replace(payload, 'left', 'right') WHERE sequence=5") == (
        "row 5 of the audit log was changed"
    )
    assert forged("DELETE FROM audit WHERE sequence=5") == "row 5 of the audit log is missing or out of place"
    # What makes a vote count for the other model, without a change of the vote.
    swap = "UPDATE assignment SET left_image=right_image, right_image=left_image WHERE id=3"
    assert forged(swap) == "judgment 3 is not what the audit log says"
    assert forged("UPDATE assignment SET kind='gold' WHERE id=3") == "judgment 3 is not what the audit log says"
    for change in ("image SET model='other' WHERE id=1", "pair SET first_image=second_image"):
        assert (forged(f"UPDATE {change}") or "").startswith("the design, prompts, images or pairs are not those")
    assert fault() is None


def test_tables_of_another_version_are_refused_with_the_command_that_helps(engine: Engine) -> None:
    study = create(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num='0000'"))
    with pytest.raises(BenchError, match=r"of version 0000, this program's of .*: run blip3o-bench study upgrade"):
        Store(engine, study.id)


def test_an_unknown_study_and_database_are_users_errors(engine: Engine) -> None:
    with pytest.raises(BenchError, match="holds no study"):
        Store(engine, "nothing")
    with pytest.raises(BenchError, match="sqlite or postgresql"):
        database.connect("mysql://host/name")
    with pytest.raises(BenchError, match="not the URL of a database"):
        database.connect("study.db")
    with pytest.raises(BenchError, match=r"cannot use the database sqlite:////nowhere/study\.db"):
        database.upgrade(database.connect("sqlite:////nowhere/study.db"))


def test_several_studies_share_a_database(engine: Engine) -> None:
    first, second = create(engine), create(engine)
    person, other = first.enrol("same name").id, second.enrol("same name").id
    assert person != other
    judge_all(first, person)
    assert states(first)["done"] == 12
    with second.reading() as connection:
        assert (
            connection.execute(
                select(func.count()).where(TaskRow.study_id == second.id, TaskRow.state == "done")
            ).scalar_one()
            == 0
        )


def test_tokens_lead_their_own_annotator_to_the_images_only(engine: Engine) -> None:
    study = create(engine)
    first, second = study.enrol("first").id, study.enrol("second").id
    pair = study.work(first)[0]
    left, right = study.image(first, pair.left_token), study.image(first, pair.right_token)
    assert left is not None
    assert right is not None
    assert left != right
    assert study.image(second, pair.left_token) is None
    for token in ("", "../study.db", "%2e%2e", "' OR 1=1 --", left, pair.left_token[:-1], pair.left_token + "x"):
        assert study.image(first, token) is None
