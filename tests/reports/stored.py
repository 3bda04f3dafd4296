"""Stored runs with a known content, written by the store itself, and the parts of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from benchmarks.spec import Environment, RunSpec, open_run
from benchmarks.store import write_records
from benchmarks.types import Json, Metric, RunRecord

HOSTILE = '</script><script>alert("x")</script>$\\frac{1}{0}$'


def record(
    benchmark: str,
    metrics: Sequence[Metric],
    judge: Json = None,
    suite: str = "toy",
    profile: str = "",
    model: str = "toy <8M>",
    limit: int | None = None,
) -> RunRecord:
    return RunRecord(
        benchmark=benchmark,
        version="1",
        suite=suite,
        profile=profile or f"{benchmark}-official",
        model={"name": model, "sha256": "ab12"},
        judge=judge or {},
        data={"sha256": "cd34"},
        seed=7,
        settings={"steps": 20, "limit": limit},
        code={"revision": "v0.1.0"},
        packages={"numpy": "2.4.6"},
        hardware={"cores": 2},
        metrics=tuple(metrics),
    )


def store_run(folder: Path, records: Sequence[RunRecord], day: int = 1, model: str | None = None) -> None:
    """A complete run that was started on a day of November 2026; ``model`` is the name of its records' model."""
    records = [replace(one, model={"name": model}) if model else one for one in records]
    spec = RunSpec(records[0].suite, 7, None, records[0].model, {})
    folder.mkdir(parents=True, exist_ok=True)
    open_run(folder, spec, Environment(f"2026-11-{day:02}T12:00:00+00:00", {}, {}, {}))
    write_records(folder, records)


class Page(HTMLParser):
    """All start tags with their attributes, and all text outside ``style`` and ``script``."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open not in ("style", "script"):
            self.text += data

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and (not kind or kind in (attrs.get("class") or "").split(" "))
        ]


def assert_self_contained(source: str) -> None:
    """The page asks for nothing: one script, which its policy names, and links to itself, to data and to its folder."""
    page = Page(source)
    assert len(page.all("script")) == 1
    assert "src" not in page.all("script")[0]
    policy = next(meta["content"] or "" for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert not page.all("link")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    links = [attrs[name] or "" for _, attrs in page.tags for name in ("href", "src", "xlink:href") if name in attrs]
    assert not [
        link for link in links if not link.startswith(("#", "data:image/")) and not link.endswith("report.html")
    ]
    assert source.count("url(") == source.count("url(#")
    assert "@import" not in source
