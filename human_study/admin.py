"""The administrator's page."""

from __future__ import annotations

import time
from dataclasses import asdict

import streamlit as st

from human_study import monitor
from human_study.store import Store


def page(store: Store) -> None:
    """Progress, agreement and the quality of each annotator's work; no model is named."""
    st.title(store.design.title)
    done, total = monitor.tasks(store)
    st.progress(done / total, f"{done} of {total} judgments")
    st.button("Refresh")
    st.subheader("Agreement so far")
    st.table(
        [
            {
                "criterion": criterion.title,
                "pairs with several votes": criterion.pairs,
                "equal votes": _percent(criterion.equal),
                "Gwet's AC1": _coefficient(criterion.ac1),
                "Krippendorff's alpha": _coefficient(criterion.alpha),
            }
            for criterion in monitor.agreement(store)
        ]
    )
    if store.design.monitoring == "sequential":
        st.subheader("Evidence so far")
        st.table([asdict(evidence) for evidence in monitor.evidence(store)])
        st.caption(
            "Prompts on which each model leads, and the e-value against neither being better. The study may stop at "
            "any time at an e-value of 1 / alpha or more: 20 at alpha 0.05, 40 for each of two criteria."
        )
    st.subheader("Annotators")
    reports = monitor.annotators(store)
    if not reports:
        st.write("Nobody is enrolled yet: blip3o-bench study link NAME makes an annotator's link.")
        return
    st.table([_row(report) for report in reports])
    st.caption(
        "Gold and qualification pairs have a known answer. Repeats are pairs shown again with their sides swapped. "
        f"Fast: a median time under {monitor.FAST:.0%} of the other annotators' median."
    )


def _row(report: monitor.AnnotatorReport) -> dict[str, str | int]:
    ago = "" if report.last_at is None else f"{(time.time() - report.last_at) / 60:.0f} min ago"
    return {
        "annotator": report.person.name,
        "judgments": report.judgments,
        "skips": report.skips,
        "gold failed": f"{report.gold_asked - report.gold_right} of {report.gold_asked}",
        "repeats the same": f"{report.repeats_same} of {report.repeats}",
        "left chosen": _percent(report.left_share),
        "ties": _percent(report.tie_share),
        "median time": "" if report.median_seconds is None else f"{report.median_seconds:.1f} s",
        "speed": "fast" if report.fast else "",
        "last": ago,
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _coefficient(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
