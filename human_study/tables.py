"""The database of a study. Times are seconds since 1970 in UTC.

Judgments and the audit log are only ever inserted: an undo, or a vote after it, is a new row that supersedes the old
one. The unique constraints below are the last word against double votes, whatever the code above them does.
"""

from __future__ import annotations

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.types import Json


class Base(DeclarativeBase):
    # Named, since neither database can change a constraint that has no name.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class StudyRow(Base):
    __tablename__ = "study"
    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[float]
    design: Mapped[Json] = mapped_column(JSON)


class Prompt(Base):
    __tablename__ = "prompt"
    __table_args__ = (UniqueConstraint("study_id", "key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id"))
    key: Mapped[str]
    text: Mapped[str]


class ImageRow(Base):
    """An image file ``images/SHA256.png`` of the study; ``width`` and ``height`` of the file as shown."""

    __tablename__ = "image"
    __table_args__ = (UniqueConstraint("prompt_id", "model", "criterion"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"))
    model: Mapped[str]  # never sent to annotators
    criterion: Mapped[str]  # of gold's worse images; empty for models' own
    sha256: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]


class PairRow(Base):
    """Two images of a prompt; in gold and qualification pairs the first is known to be better."""

    __tablename__ = "pair"
    __table_args__ = (UniqueConstraint("first_image", "second_image", "kind"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id"), index=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"))
    first_image: Mapped[int] = mapped_column(ForeignKey("image.id"))
    second_image: Mapped[int] = mapped_column(ForeignKey("image.id"))
    kind: Mapped[str]
    criterion: Mapped[str | None]


class TaskRow(Base):
    """One judgment that the study wants. Open: anyone's; leased: ``annotator_id``'s until ``lease_until``; done."""

    __tablename__ = "task"
    __table_args__ = (
        UniqueConstraint("pair_id", "criterion", "round", "slot"),
        CheckConstraint("state IN ('open', 'leased', 'done')", name="state"),
        Index("ix_task_next", "study_id", "criterion", "round", "state", "swapped", "order"),
        Index("ix_task_leases", "study_id", "state", "lease_until"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id"))
    pair_id: Mapped[int] = mapped_column(ForeignKey("pair.id"))
    criterion: Mapped[str]
    round: Mapped[int]
    slot: Mapped[int]
    swapped: Mapped[bool]
    order: Mapped[int]
    state: Mapped[str] = mapped_column(default="open")
    annotator_id: Mapped[int | None] = mapped_column(ForeignKey("annotator.id"))
    lease_until: Mapped[float | None]


class Annotator(Base):
    """``name`` is what the administrator calls them; exports carry ``number`` only, the order of enrolment."""

    __tablename__ = "annotator"
    __table_args__ = (
        UniqueConstraint("study_id", "name"),
        UniqueConstraint("study_id", "role", "number"),
        CheckConstraint("role IN ('annotator', 'admin')", name="role"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id"))
    number: Mapped[int]
    name: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[float]
    consented_at: Mapped[float | None]


class Link(Base):
    """A sign-in link that was issued; only the hash of its token is kept."""

    __tablename__ = "link"
    id: Mapped[int] = mapped_column(primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"))
    token_sha256: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[float]
    used_at: Mapped[float | None]


class SessionRow(Base):
    """A browser that is signed in; only the hash of its cookie is kept."""

    __tablename__ = "session"
    id: Mapped[int] = mapped_column(primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"))
    token_sha256: Mapped[str] = mapped_column(unique=True)
    expires_at: Mapped[float]


class AssignmentRow(Base):
    """A pair put before an annotator, with the sides as shown for ever. ``task_id`` is None unless kind is main.

    ``done`` says whether its latest judgment stands: it is False before the first one and after an undo.
    """

    __tablename__ = "assignment"
    __table_args__ = (
        UniqueConstraint("annotator_id", "pair_id", "criterion", "round", "kind"),
        UniqueConstraint("annotator_id", "position"),
        Index("ix_assignment_block", "annotator_id", "criterion", "round", "kind"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id"), index=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"))
    task_id: Mapped[int | None] = mapped_column(ForeignKey("task.id"), index=True)
    pair_id: Mapped[int] = mapped_column(ForeignKey("pair.id"))
    criterion: Mapped[str]
    round: Mapped[int]
    kind: Mapped[str]
    position: Mapped[int]  # among all of this annotator's, from 0
    left_image: Mapped[int] = mapped_column(ForeignKey("image.id"))
    right_image: Mapped[int] = mapped_column(ForeignKey("image.id"))
    left_token: Mapped[str] = mapped_column(unique=True)
    right_token: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]
    done: Mapped[bool] = mapped_column(default=False)


class JudgmentRow(Base):
    """A vote, a skip or an undo. The one that no other supersedes stands.

    Each assignment has one row that supersedes nothing, and each row is superseded once at most: a chain, so that
    exactly one row of an assignment stands and no row is ever changed.
    """

    __tablename__ = "judgment"
    __table_args__ = (
        CheckConstraint("choice IN ('left', 'right', 'tie', 'skip', 'undo')", name="choice"),
        CheckConstraint("ms_visible >= 0 AND ms_total >= 0", name="time"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"), index=True)
    choice: Mapped[str]
    ms_visible: Mapped[int]  # both images loaded and the page in the foreground
    ms_total: Mapped[int]  # from both images being loaded to the choice
    created_at: Mapped[float] = mapped_column(index=True)
    submit_uuid: Mapped[str] = mapped_column(unique=True)
    supersedes: Mapped[int | None] = mapped_column(ForeignKey("judgment.id"), unique=True)
    surplus: Mapped[bool]  # the lease had run out and another annotator had filled the slot
    page: Mapped[Json] = mapped_column(JSON)  # natural and displayed sizes, zooms: as the browser tells


Index(
    "uq_judgment_first",
    JudgmentRow.assignment_id,
    unique=True,
    sqlite_where=JudgmentRow.supersedes.is_(None),
    postgresql_where=JudgmentRow.supersedes.is_(None),
)


class AuditRow(Base):
    """What happened, in order; ``hash`` covers the row and the hash of the row before it."""

    __tablename__ = "audit"
    __table_args__ = (UniqueConstraint("study_id", "sequence"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("study.id"))
    sequence: Mapped[int]
    at: Mapped[float]
    actor: Mapped[str]
    event: Mapped[str]
    payload: Mapped[str]  # JSON, as hashed
    previous: Mapped[str]
    hash: Mapped[str]
