from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import select, update

from human_study import database, links
from human_study.store import Store
from human_study.tables import AuditRow, Link, SessionRow
from tests.human_study.studies import create

KEY = b"k" * 32


@pytest.fixture
def study(tmp_path: Path) -> Store:
    engine = database.connect(f"sqlite:///{tmp_path}/study.db")
    database.upgrade(engine)
    return create(engine)


def test_a_link_signs_its_annotator_in_once(study: Store) -> None:
    ann, bob = study.enrol("ann"), study.enrol("bob")
    token = links.issue(study, KEY, ann.id, hours=1)
    cookie = links.redeem(study, KEY, token)
    assert links.person(study, cookie) == ann
    with pytest.raises(links.LinkError, match="used before"):
        links.redeem(study, KEY, token)
    other = links.redeem(study, KEY, links.issue(study, KEY, bob.id, hours=1))
    assert links.person(study, other) == bob
    assert links.person(study, cookie) == ann  # sessions do not disturb each other


def test_an_expired_link_is_refused(study: Store) -> None:
    token = links.issue(study, KEY, study.enrol("ann").id, hours=1)
    with study.engine.begin() as connection:
        connection.execute(update(Link).values(expires_at=time.time() - 1))
    with pytest.raises(links.LinkError, match="has expired"):
        links.redeem(study, KEY, token)


def test_forged_links_are_refused(study: Store) -> None:
    ann, bob = study.enrol("ann"), study.enrol("bob")
    token = links.issue(study, KEY, ann.id, hours=1)
    for_bob = links.issue(study, KEY, bob.id, hours=1)
    payload, signature = token.split(".")
    made_up = links._signer(study, b"another key").dumps([ann.id, "nonce"])
    for forged in (
        "",
        ".",
        payload,
        f"{for_bob.split('.')[0]}.{signature}",  # another annotator under this signature
        token[:-9] + ("A" if token[-9] != "A" else "B") + token[-8:],
        token + "x",
        made_up,
        "x" * 100_000,
        "' OR 1=1 --",
        "\u2603",
    ):
        with pytest.raises(links.LinkError, match="not a link to this study"):
            links.redeem(study, KEY, forged)
    assert links.person(study, links.redeem(study, KEY, token)) == ann  # none of them has used it up


def test_a_signed_link_that_was_never_issued_is_refused(study: Store) -> None:
    token = links._signer(study, KEY).dumps([study.enrol("ann").id, "nonce"])
    with pytest.raises(links.LinkError, match="expired or was used"):
        links.redeem(study, KEY, token)


def test_links_and_sessions_are_of_one_study(study: Store) -> None:
    other = create(study.engine)  # in the same database, and even under the same key
    ann = study.enrol("ann")
    other.enrol("ann")
    token = links.issue(study, KEY, ann.id, hours=1)
    with pytest.raises(links.LinkError, match="not a link to this study"):
        links.redeem(other, KEY, token)
    cookie = links.redeem(study, KEY, token)
    assert links.person(other, cookie) is None
    assert links.cookie_name(study) != links.cookie_name(other)


def test_sessions_end_and_nonsense_is_nobody(study: Store) -> None:
    cookie = links.redeem(study, KEY, links.issue(study, KEY, study.enrol("ann").id, hours=1))
    for nonsense in (None, "", "x", cookie[:-1], cookie + "x", "x" * 100_000, "' OR 1=1 --"):
        assert links.person(study, nonsense) is None
    with study.engine.begin() as connection:
        connection.execute(update(SessionRow).values(expires_at=time.time() - 1))
    assert links.person(study, cookie) is None


def test_the_database_and_the_audit_log_hold_no_token(study: Store, tmp_path: Path) -> None:
    token = links.issue(study, KEY, study.enrol("ann").id, hours=1)
    cookie = links.redeem(study, KEY, token)
    with study.reading() as connection:
        events = [row.event for row in connection.execute(select(AuditRow).order_by(AuditRow.sequence))]
    assert events == ["created", "enrolled", "link issued", "signed in"]
    study.engine.dispose()  # the last connection moves what the write-ahead log holds into the file
    content = (tmp_path / "study.db").read_bytes()
    assert b"link issued" in content
    assert token.encode() not in content
    assert cookie.encode() not in content
