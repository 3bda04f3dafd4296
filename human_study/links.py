"""Sign-in: signed links that work once, and the sessions they open.

A link carries the annotator's id under the study's own key, and works once and until it expires. It opens a session,
a random cookie. The database keeps hashes of both, so that who reads it can sign in as nobody.
"""

from __future__ import annotations

import hashlib
import secrets
import time

from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import bindparam, insert, select, update

from human_study import audit
from human_study.store import Person, Store, person_of
from human_study.tables import Annotator, Link, SessionRow

#: A session lasts as long as Streamlit's own sign-in does.
SESSION_DAYS = 30
#: No token of ours is longer.
LONGEST_TOKEN = 512

# Built once, see human_study.claims.
_SIGNED_IN = (
    select(Annotator)
    .join(SessionRow, SessionRow.annotator_id == Annotator.id)
    .where(
        SessionRow.token_sha256 == bindparam("token"),
        SessionRow.expires_at > bindparam("now"),
        Annotator.study_id == bindparam("study"),
    )
)


class LinkError(Exception):
    """A link that opens nothing; the message may be shown."""


def issue(store: Store, key: bytes, annotator: int, hours: float) -> str:
    """A new link token for an annotator of the study, good for so many hours."""
    token = _signer(store, key).dumps([annotator, secrets.token_urlsafe(16)])
    with store.engine.begin() as connection:
        expires = time.time() + 3600 * hours
        connection.execute(insert(Link).values(annotator_id=annotator, token_sha256=_hash(token), expires_at=expires))
        audit.append(connection, store.id, time.time(), "administrator", "link issued", {"annotator": annotator})
    return token


def redeem(store: Store, key: bytes, token: str) -> str:
    """Exchange a link for a session's cookie. Raises LinkError for one that is forged, expired or used."""
    try:
        # Loading it checks the signature, before the database is asked anything.
        annotator, _ = _signer(store, key).loads(token[:LONGEST_TOKEN])
    except (BadSignature, ValueError, TypeError) as error:
        raise LinkError(
            "This is not a link to this study. Please use the link exactly as you were given it."
        ) from error
    cookie = secrets.token_urlsafe(32)
    now = time.time()
    with store.engine.begin() as connection:
        used = connection.execute(
            update(Link)
            .where(Link.token_sha256 == _hash(token), Link.used_at.is_(None), Link.expires_at > now)
            .values(used_at=now)
        )
        if used.rowcount != 1:
            raise LinkError("This link has expired or was used before. Please ask for a new one.")
        session = {"annotator_id": annotator, "token_sha256": _hash(cookie), "expires_at": now + SESSION_DAYS * 86400}
        connection.execute(insert(SessionRow).values(session))
        audit.append(connection, store.id, now, f"annotator {annotator}", "signed in", {})
    return cookie


def person(store: Store, cookie: str | None) -> Person | None:
    """Who is signed in to this study with a cookie; None for nobody."""
    if not cookie or len(cookie) > LONGEST_TOKEN:
        return None
    with store.reading() as connection:
        found = connection.execute(
            _SIGNED_IN, {"token": _hash(cookie), "now": time.time(), "study": store.id}
        ).one_or_none()
    return person_of(found) if found else None


def cookie_name(store: Store) -> str:
    """One for each study: browsers share cookies between all ports of a host."""
    return f"study_{store.id}"


def _signer(store: Store, key: bytes) -> URLSafeSerializer:
    return URLSafeSerializer(key, salt=store.id, signer_kwargs={"digest_method": hashlib.sha256})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
