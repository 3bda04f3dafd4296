"""The results of a study as text, Markdown, and a self-contained page: the same tables everywhere."""

from __future__ import annotations

from reports.study.figure import figure
from reports.study.results import Results
from reports.study.sections import sections
from reports.tables import as_markdown, as_text


def text(results: Results) -> str:
    """For a terminal."""
    return "\n\n".join(f"{title}\n\n{as_text(table)}" for title, table in sections(results))


def markdown(results: Results) -> str:
    """GitHub's Markdown."""
    return "\n\n".join(f"## {title}\n\n{as_markdown(table)}" for title, table in sections(results))


def html(results: Results, title: str) -> str:
    """One page that needs no other file."""
    from markupsafe import Markup

    from reports.page import page
    from reports.plots import embed

    chart = embed(figure(results.comparisons), "shares of the votes for either model, and of ties")
    return page("study.html.j2", {"title": title, "chart": Markup(chart), "sections": sections(results)})
