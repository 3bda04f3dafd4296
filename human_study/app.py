"""The pages. ``main`` runs anew for every click; all that lasts is in the database."""

from __future__ import annotations

import base64
import gc
import io
from html import escape

import streamlit as st
from PIL import Image

from human_study import admin, links, monitor, pair, server
from human_study.claims import Assignment
from human_study.design import Criterion
from human_study.folder import Study
from human_study.store import Person, RefusedError, Vote

EXAMPLE_PX = 192


def main() -> None:
    """Show the page that is due to whoever is signed in."""
    st.set_page_config(page_title="Image study", layout="wide")
    study = server.serving().study
    width = 2 * study.store.design.display_px + 16  # of both images and the gap between them, see pair.css
    st.html(
        f"<style>.stMainBlockContainer {{max-width: calc(max({width}px, 46rem) + 2rem); margin: 0 auto; "
        "padding: 1.5rem 1rem 1rem} .stAppHeader {display: none}</style>"
    )
    person = _signed_in(study)
    if person is None:
        _sign_in_page(study)
    elif person.role == "admin":
        admin.page(study.store)
    elif not person.consented:
        _consent_page(study, person)
    else:
        _work_page(study, person)


def _signed_in(study: Study) -> Person | None:
    return links.person(study.store, st.context.cookies.get(links.cookie_name(study.store)))


def _sign_in_page(study: Study) -> None:
    st.title(study.store.design.title)
    sign_in = server.serving().sign_in
    if sign_in == "links":
        st.write("Please open the link that you were given. Each link works once; ask for a new one if yours did.")
    elif sign_in == "oidc":
        _oidc_page(study)
    else:
        _local_page(study)


def _oidc_page(study: Study) -> None:
    if not st.user.is_logged_in:
        st.button("Sign in", type="primary", on_click=st.login)
        return
    # An address that its owner did not confirm may be anybody's.
    address = st.user.get("email") if st.user.get("email_verified") else None
    person = next((person for person in study.store.people() if person.name == address), None)
    if person is None:
        st.write("You are signed in, but not enrolled in this study.")
        st.button("Sign out", on_click=st.logout)
    else:
        _continue_as(study, person)


def _local_page(study: Study) -> None:
    st.write("This study runs on this machine only.")
    if st.button("Judge images", type="primary"):
        _continue_as(study, study.store.enrol("local"))
    if st.button("See progress"):
        _continue_as(study, study.store.enrol("local administrator", "admin"))


def _continue_as(study: Study, person: Person) -> None:
    token = links.issue(study.store, study.key, person.id, hours=1)
    st.link_button("Continue", f"enter#{token}")


def _consent_page(study: Study, person: Person) -> None:
    st.title(study.store.design.title)
    st.write("You will see two images at a time and choose the better one.")
    for criterion in study.store.design.criteria:
        st.subheader(criterion.title)
        _explain(study, criterion)
    st.subheader("Before you begin")
    st.text(study.store.design.consent)
    if st.button("I agree, and begin", type="primary"):
        study.store.consent(person.id)
        st.rerun()


def _explain(study: Study, criterion: Criterion) -> None:
    st.text(criterion.instruction)
    example = study.store.example(criterion.key)
    if example is None:
        return
    prompt, *digests = example
    figures = "".join(
        f'<figure style="margin:0;flex:0 1 {EXAMPLE_PX}px"><img src="{_thumbnail(study, digest)}" alt="{caption}" '
        f'style="width:100%"><figcaption>{caption}</figcaption></figure>'
        for digest, caption in zip(digests, ("better", "worse"), strict=True)
    )
    text = f"<p>Text: {escape(prompt)}</p>" if criterion.show_prompt else ""
    st.html(f'<p>An example:</p>{text}<div style="display:flex;gap:1rem">{figures}</div>')


@st.cache_data(show_spinner=False)
def _thumbnail(_study: Study, digest: str) -> str:
    """An example as a data URL: examples belong to no annotator, so they have no URL of their own."""
    buffer = io.BytesIO()
    with Image.open(_study.image(digest)) as image:
        image.thumbnail((2 * EXAMPLE_PX, 2 * EXAMPLE_PX))
        image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _work_page(study: Study, person: Person) -> None:
    held = study.store.work(person.id)
    progress = monitor.progress(study.store, person.id)
    st.session_state["current"] = None  # until a pair is on the page
    if "notice" in st.session_state:
        st.warning(st.session_state.pop("notice"))
    if not held:
        _end_page(study, person, progress)
        return
    criterion = study.store.design.criterion(held[0].criterion)
    if st.session_state.get("introduced") != (criterion.key, held[0].round):
        _introduction(study, held[0], criterion)
    elif _break_is_due(study, progress):
        _break_page(progress)
    else:
        _pair_page(study, held, criterion, progress)


def _introduction(study: Study, now: Assignment, criterion: Criterion) -> None:
    st.title(f"Now: {criterion.title}")
    _explain(study, criterion)
    st.write(f"Keys: {_keys(study)}. A click on an image zooms both.")
    if now.kind == "qualification":
        st.write("The first pairs have a clear answer and check that the instructions are understood.")
    if st.button("Start", type="primary", shortcut="Enter"):
        st.session_state["introduced"] = criterion.key, now.round
        st.rerun()


def _keys(study: Study) -> str:
    tie = "↓ no preference, " if study.store.design.ties else ""
    return f"← left, → right, {tie}S skip, U undo, Z zoom"


def _break_is_due(study: Study, progress: monitor.Progress) -> bool:
    rests = progress.own // study.store.design.break_every
    return bool(rests > st.session_state.setdefault("rests", rests))


def _break_page(progress: monitor.Progress) -> None:
    st.title("Time for a short break?")
    st.write(f"You have judged {progress.own} pairs. Rest your eyes for a minute; nothing is lost.")
    if st.button("Go on", type="primary", shortcut="Enter"):
        st.session_state["rests"] += 1
        st.rerun()


def _pair_page(study: Study, held: list[Assignment], criterion: Criterion, progress: monitor.Progress) -> None:
    st.markdown(f"**{criterion.title}**", help=_keys(study))
    st.caption(criterion.instruction)
    st.session_state["current"] = held[0].id
    pair.show(study.store.design, held, progress.can_undo, _choose)
    left = "" if progress.seconds_left is None else f" · about {_duration(progress.seconds_left)} left"
    share = progress.done / progress.total
    st.progress(share, f"You: {progress.own} pairs · study: {progress.done} of {progress.total} judgments{left}")
    _settle()


@st.cache_resource(show_spinner=False)
def _settle() -> None:
    """Exempt what is imported by the first pair page from garbage collection.

    Streamlit collects after every run of the script, and so looks at every object of every package: three quarters of
    the time that a click took.
    """
    gc.collect()
    gc.freeze()


def _end_page(study: Study, person: Person, progress: monitor.Progress) -> None:
    if monitor.disqualified(study.store, person.id):
        st.title("Thank you")
        st.write("Your answers on the first pairs differ from what the study needs, so there are no more for you.")
        return
    if progress.done < progress.total and monitor.waiting(study.store, person.id):
        st.title("Nothing to do right now")
        st.write("Other annotators hold the last pairs. Some may come back: look again in a few minutes.")
        st.button("Look again", type="primary")
    else:
        st.title("That was the last pair. Thank you!")
        st.write(f"You judged {progress.own} pairs. You may close this page.")
    if progress.can_undo and st.button("Undo last vote"):
        study.store.undo(person.id, None)
        st.rerun()


def _choose(assignment: int, key: str) -> None:
    """Store the choice that the page sent. Runs before the script, for every click that arrives."""
    study = server.serving().study
    person = _signed_in(study)
    # A click that arrives after the page was left, such as the second of two, is for no pair at all.
    if person is None or st.session_state.get("current") != assignment:
        return
    sent = st.session_state[key]["choice"]
    try:
        if isinstance(sent, dict) and sent.get("choice") == "undo":
            study.store.undo(person.id, assignment)
        else:
            study.store.submit(person.id, _vote(assignment, sent))
        # Not before: Streamlit may break off here for a second click, which then is the one that counts.
        st.session_state["current"] = None
    except RefusedError as error:
        st.session_state["notice"] = f"Your vote was not taken: {error}. Please reload the page."


def _vote(assignment: int, sent: object) -> Vote:
    """What the browser sent, if it is what our page sends. Raises RefusedError."""
    if not isinstance(sent, dict) or sent.get("assignment") != assignment:
        raise RefusedError("it is not about the pair on the page")
    try:
        return Vote(
            assignment,
            str(sent["choice"]),  # type: ignore[arg-type]  # the store refuses what is none
            str(sent["submit_uuid"]),
            int(sent["ms_visible"]),
            int(sent["ms_total"]),
            dict(sent["page"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RefusedError("it is not complete") from error


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 90 else f"{round(minutes / 60)} h"
