"""What a gate tells continuous integration: JUnit XML, GitHub's annotations and step summary."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

from reports.gate import Gated, Judged, gate_table, summary
from reports.tables import as_markdown, number


def junit(gated: Gated) -> str:
    """One test case per metric: a failure where it fails, an error where the gate cannot tell.

    A gate that has nothing to judge is one case with an error: a suite without cases would count as passed.
    """
    count = Counter(one.verdict for one in gated.metrics)
    suite = ElementTree.Element(
        "testsuite",
        name="blip3o-bench gate",
        tests=str(max(1, len(gated.metrics))),
        failures=str(count["fail"]),
        errors=str(count["cannot tell"] or int(not gated.metrics)),
    )
    if not gated.metrics:
        case = ElementTree.SubElement(suite, "testcase", classname="gate", name="metrics")
        ElementTree.SubElement(case, "error", message=summary(gated))
    for one in gated.metrics:
        names = {"classname": _xml(one.benchmark), "name": _xml(one.metric or "present")}
        case = ElementTree.SubElement(suite, "testcase", names)
        if one.verdict == "pass":
            ElementTree.SubElement(case, "system-out").text = _xml(one.reason)
        else:
            kind = "failure" if one.verdict == "fail" else "error"
            ElementTree.SubElement(case, kind, message=_xml(one.reason), type=one.gate.rule).text = _numbers(one)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def github_summary(gated: Gated) -> str:
    """Markdown to be appended to the file that ``$GITHUB_STEP_SUMMARY`` names."""
    return f"## {summary(gated)}\n\n{as_markdown(gate_table(gated))}\n"


def github_annotations(gated: Gated) -> str:
    """One ``::error`` per metric that fails, one ``::warning`` per metric that the gate cannot tell."""
    lines = []
    for one in gated.metrics:
        if one.verdict != "pass":
            level = "error" if one.verdict == "fail" else "warning"
            title = f"{one.benchmark} {one.metric}".rstrip()
            lines.append(f"::{level} title={_property(title)}::{_data(one.reason)}")
    if gated.verdict != "pass":
        lines.append(f"::error title=gate::{_data(summary(gated))}")
    return "\n".join(lines)


def _numbers(one: Judged) -> str:
    told = {"old": one.old, "new": one.new, "difference": one.difference, "limit": one.limit, "margin": one.margin}
    values = ", ".join(f"{name} {number(value, one.unit)}" for name, value in told.items())
    return f"{values}; {one.n} samples, {one.missing} missing"


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold, not even escaped (section 2.2)."""
    return re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _data(text: str) -> str:
    """A workflow command's message, as @actions/core escapes it (toolkit, packages/core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
