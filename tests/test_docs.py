"""The pages say what is there: links, files, commands and their options, policies of the gate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from blip3o_bench import main
from reports.gate import read_policy

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for file, anchor in LINK.findall(page.read_text()):
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_every_page_is_found_from_the_readme() -> None:
    found, waiting = set(), [PAGES[0]]
    while waiting:
        page = waiting.pop()
        if page not in found:
            found.add(page)
            links = [(page.parent / file).resolve() for file, _ in LINK.findall(page.read_text())]
            waiting += [link for link in links if link.suffix == ".md"]
    assert set(PAGES) - found == set()


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind each ``blip3o-bench``, up to what a shell or a reader would take for something else."""
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"(?:blip3o-bench|-m blip3o_bench) (.*)", text):
        yield re.split(r"`|  |[|;&)>#]", line)[0].split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page):
        command: click.Command = main
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if command is main:  # the name alone, in a sentence
            continue
        known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
        used = {word for word in words if word.startswith("--")}
        assert used <= known | {"--no-ties"}, (command.name, words)


def leaves(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path.strip(), command
        return
    for name, below in command.commands.items():
        yield from leaves(below, f"{path} {name}")


def test_every_command_is_on_a_page_and_has_help() -> None:
    text = " ".join(page.read_text() for page in PAGES)
    for path, command in leaves(main):
        assert f"blip3o-bench {path}" in text
        assert command.help


def test_the_gates_policies_can_be_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "gates.toml").write_text(block)
        policy = read_policy(tmp_path / "gates.toml")
        # A run with MJHQ-30K cannot pass otherwise: no score per image is stored of a distance.
        assert policy.gate("mjhq", "fid").rule == "absolute-floor"
