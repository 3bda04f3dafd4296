"""The pages, over the protocol that the browser speaks, from a server in a process of its own."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from websockets.exceptions import ConnectionClosed

from benchmarks.types import BenchError
from human_study import audit, monitor
from human_study.design import PAPER_CRITERIA
from human_study.simulate import Preferences, Tab, annotate, open_tab, quality
from human_study.tables import AssignmentRow, ImageRow, JudgmentRow, TaskRow
from tests.human_study.serving import Served, serve
from tests.human_study.studies import PLAIN, study_with_images

PLAN = replace(
    PLAIN, models=("zebra-7b", "okapi-8b"), criteria=PAPER_CRITERIA[:1], judgments_per_pair=8, minimum_view_ms=400
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(study_with_images(tmp_path_factory.mktemp("served"), PLAN, prompts=12)) as server:
        yield server


@contextmanager
def begin(served: Served, name: str) -> Iterator[Tab]:
    """A tab at its first pair."""
    with open_tab(served.url, served.link(name)) as tab:
        while label := next((label for label in ("I agree, and begin", "Start") if label in tab.buttons), None):
            tab.press(label)
            tab.run()
        assert tab.pair is not None
        yield tab


def judgments(served: Served, name: str) -> list[Any]:
    """What is stored of an annotator, in order."""
    annotator = served.study.store.enrol(name).id
    with served.study.store.reading() as connection:
        return list(
            connection.execute(
                select(JudgmentRow)
                .join(AssignmentRow, JudgmentRow.assignment_id == AssignmentRow.id)
                .where(AssignmentRow.annotator_id == annotator)
                .order_by(JudgmentRow.id)
            )
        )


def test_a_vote_leads_to_the_pair_that_was_fetched_ahead(served: Served) -> None:
    with begin(served, "next") as tab:
        assert tab.pair is not None
        shown, ahead = tab.pair["assignment"], tab.pair["next"]
        tab.choose("left")
        assert tab.pair["assignment"] != shown
        assert [tab.pair["left"], tab.pair["right"]] == ahead
        assert [(row.assignment_id, row.choice) for row in judgments(served, "next")] == [(shown, "left")]


@pytest.mark.parametrize("pause", [0.0, 0.08, 0.3])
def test_two_clicks_are_one_vote_and_none_for_an_unseen_pair(served: Served, pause: float) -> None:
    name = f"clicks {pause}"
    with begin(served, name) as tab:
        assert tab.pair is not None
        shown = tab.pair["assignment"]
        tab.send_choice("left")
        time.sleep(pause)
        tab.send_choice("right")  # what a page sends that has not yet heard of the first
        time.sleep(1)  # loading the page anew at once may break off the vote, which then is not acknowledged either
        tab.run()
        tab.run()
        # Which of two simultaneous clicks counts is Streamlit's affair.
        assert [row.assignment_id for row in judgments(served, name)] == [shown]
        second = tab.pair["assignment"]
        assert second != shown
        tab.choose("tie")
        while tab.pair is not None and tab.pair["assignment"] == second:
            tab.read()  # pages of the runs before, which were not all read
        assert [row.assignment_id for row in judgments(served, name)] == [shown, second]


def test_reloading_shows_the_same_pair_the_same_way(served: Served) -> None:
    with begin(served, "reload") as tab:
        before = tab.pair
        tab.run()
        assert tab.pair == before
        with begin(served, "reload") as another:  # another device, with a link of its own
            assert another.pair == before


def test_undo_brings_the_last_pair_back(served: Served) -> None:
    with begin(served, "undo") as tab:
        first = tab.pair
        assert first is not None
        assert not first["can_undo"]
        tab.choose("left")
        assert tab.pair is not None
        assert tab.pair["can_undo"]
        tab.choose("undo")
        assert tab.pair is not None
        assert {**tab.pair, "submit_uuid": ""} == {**first, "submit_uuid": "", "next": tab.pair["next"]}
        tab.choose("right")
        assert [row.choice for row in judgments(served, "undo")] == ["left", "undo", "right"]


def test_a_vote_before_the_minimum_time_is_not_taken(served: Served) -> None:
    with begin(served, "hasty") as tab:
        before = tab.pair
        tab.choose("left", ms=399)
        assert tab.pair == before
        assert judgments(served, "hasty") == []


def test_messages_that_no_page_sends_store_nothing_and_break_nothing(served: Served) -> None:
    odd: list[dict[str, object]] = [
        {"assignment": 10**9},
        {"assignment": "1; DROP TABLE judgment"},
        {"choice": "both"},
        {"choice": ["left"]},
        {"submit_uuid": "x" * 100},
        {"ms_total": "soon"},
        {"ms_total": 10**400},
        {"page": {"note": "x" * 5000}},
        {"page": "x"},
    ]
    with begin(served, "odd messages") as tab:
        before = tab.pair
        for change in odd:
            tab.send_choice("left", change=change)
            tab.read()
            assert tab.pair == before, change
        assert judgments(served, "odd messages") == []


def test_an_annotator_cannot_judge_anothers_pair(served: Served) -> None:
    with begin(served, "victim") as victim, begin(served, "thief") as thief:
        assert victim.pair is not None
        thief.send_choice("left", change={key: victim.pair[key] for key in ("assignment", "submit_uuid")})
        thief.read()
        assert judgments(served, "victim") == judgments(served, "thief") == []


def test_links_are_refused_once_used(served: Served) -> None:
    link = served.link("once")
    with open_tab(served.url, link):
        pass
    with pytest.raises(BenchError, match="refused"):
        open_tab(served.url, link).__enter__()


def test_nothing_that_is_sent_names_a_model_and_no_secret_is_logged(served: Served) -> None:
    with begin(served, "curious") as tab:
        for choice in ("left", "right", "tie", "skip", "undo"):
            tab.choose(choice)
        sent = b"".join(tab.received)
        log = served.log.read_text()
        assert b"study_pair" in sent
        for model in PLAN.models:
            assert model.encode() not in sent
        assert tab.cookie.partition("=")[2] not in log
        assert "enter#" not in log


def test_the_administrator_sees_annotators_and_no_models(served: Served) -> None:
    with begin(served, "watched") as tab:
        tab.choose("left")
    with open_tab(served.url, served.link("boss", admin=True)) as page:
        sent = b"".join(page.received)
        assert b"watched" in sent
        assert b"Agreement so far" in sent
        assert b"Evidence so far" not in sent
        for model in PLAN.models:
            assert model.encode() not in sent


def test_simulated_annotators_finish_a_study_and_their_preference_is_found(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    plan = replace(PLAN, judgments_per_pair=1, gold=2, gold_every=4, qualification=2, qualification_passes=1)
    study = study_with_images(tmp_path_factory.mktemp("simulated"), plan, prompts=16)
    preferences = Preferences(quality(study.store, {"zebra-7b": 2.0, "okapi-8b": 0.0}), ties=0.5)
    with study.store.reading() as connection:
        models = {row.id: row.model for row in connection.execute(select(ImageRow))}
    with serve(study) as server:
        work = annotate(server.url, server.link("only"), preferences, seed=1)
    (report,) = monitor.annotators(study.store)
    assert work.votes == 16 + 2 + 2
    assert (report.judgments, report.gold_right, report.gold_asked) == (16, 4, 4)
    with study.store.reading() as connection:
        rows = connection.execute(
            select(JudgmentRow.choice, AssignmentRow.left_image, AssignmentRow.right_image)
            .join(AssignmentRow, JudgmentRow.assignment_id == AssignmentRow.id)
            .where(AssignmentRow.kind == "main")
        ).all()
    preferred = Counter(
        models[row.left_image if row.choice == "left" else row.right_image] for row in rows if row.choice != "tie"
    )
    assert preferred["zebra-7b"] > 3 * preferred["okapi-8b"]  # exp(2) = 7.4 times as often


def kill_the_server(times: int, root: Path) -> None:
    """Kill a server so many times at random moments after a vote, and look for every vote that it answered."""
    study = study_with_images(root, replace(PLAN, judgments_per_pair=1), prompts=40 * times)
    rng = random.Random(0)
    answered: list[int] = []

    def vote_until_it_dies(tab: Tab) -> None:
        with suppress(ConnectionClosed):
            while tab.pair is not None:
                shown = tab.pair["assignment"]
                tab.choose("left")
                answered.append(shown)

    for _ in range(times):
        with serve(study) as server, begin(server, "ann") as tab:
            before = len(answered)
            voting = threading.Thread(target=vote_until_it_dies, args=(tab,))
            voting.start()
            while len(answered) == before:
                assert voting.is_alive()
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
            server.process.kill()
            voting.join()
    with study.store.engine.connect() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        assert audit.fault(connection, study.store.id) is None
        stored = list(connection.execute(select(JudgmentRow.assignment_id)).scalars())
        done = connection.execute(select(func.count()).where(TaskRow.state == "done")).scalar_one()
    assert len(set(stored)) == len(stored) == done
    assert set(answered) <= set(stored)
    assert len(answered) >= times
    assert len(stored) - len(answered) <= times  # at most the vote in flight at each kill
    print(f"{times} kills: {len(answered)} votes answered, {len(stored)} stored")


def test_a_server_killed_twice_loses_no_vote_that_it_answered(tmp_path: Path) -> None:
    kill_the_server(2, tmp_path)


@pytest.mark.slow
def test_a_server_killed_fifty_times_loses_no_vote_that_it_answered(tmp_path: Path) -> None:
    kill_the_server(50, tmp_path)
