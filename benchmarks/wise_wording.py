"""What WISE's judge is told: our own words, those of lmms-eval, or those of a script of WISE's repository, which has no
licence: its script is read where the user has it, and never run."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.types import BenchError, Json

Profile = Literal["wise-verified", "wise-legacy", "wise-own"]


@dataclass(frozen=True)
class Wording:
    """What a judge is told. In ``text``, {Prompt} and {Explanation} stand for those of the item."""

    text: str
    system: str | None
    source: str

    def describe(self) -> Mapping[str, Json]:
        digest = hashlib.sha256(json.dumps([self.system, self.text]).encode()).hexdigest()
        return {"source": self.source, "sha256": digest}

    def told(self, item: Mapping[str, Json]) -> str:
        return _PLACES.sub(lambda place: str(item[place[1]]), self.text)


_PLACES = re.compile(r"\{(Prompt|Explanation)\}")
#: The profile wise-own: the question and the scale of WISE-Verified in other words.
OWN_WORDING = Wording(
    """An image was generated from a prompt that names its subject only indirectly: whoever draws it has to know
something about the world. You are told what the prompt means. Decide whether the image shows that.

Prompt: {Prompt}
Meaning: {Explanation}

Give 1 only if all of this holds:
- what the meaning asks for is in the image and can be recognised without doubt;
- its number, color, place, state and time are as the meaning says, as far as it says so;
- nothing in the image contradicts the meaning;
- the image has no flaw that leaves one of these open.
Otherwise give 0, also where you are not sure. How beautiful the image is does not matter.

Answer with one line and nothing else:
Score: 0
or
Score: 1""",
    None,
    "blip3o-bench",
)


def find_wording(profile: Profile, file: Path | None = None) -> Wording:
    """The wording of ``file``, else the one that is at hand for the profile: of wise-legacy that of lmms-eval.

    ``file`` is a script of WISE's (gpt_eval.py, vllm_eval.py), or a text with {Prompt} and {Explanation}.
    Raises BenchError where there is none, and for a file in which none is found.
    """
    if profile == "wise-own":
        if file is not None:
            raise BenchError("wise-own has its own wording: leave --judge-prompt out, or choose another profile")
        return OWN_WORDING
    if file is None and profile == "wise-verified":
        raise BenchError(
            "no package ships the wording of WISE-Verified's judge: give vllm_eval.py of a checkout of "
            "PKU-YuanGroup/WISE as --judge-prompt, or choose the profile wise-own"
        )
    if file is None:
        return _lmms_wording()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read the judge's prompt {file}: {error}") from error
    return read_script(text, file.name) if file.suffix == ".py" else _complete(Wording(text, None, file.name))


def _lmms_wording() -> Wording:
    """That of the official gpt_eval.py but for blanks at the ends of lines; read, not imported, which takes seconds."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        package = distribution("lmms-eval")
    except PackageNotFoundError as error:
        raise BenchError(
            "wise-legacy takes the judge's wording from lmms-eval: pip install 'blip3o-bench[understanding]', "
            "or give gpt_eval.py of a checkout of PKU-YuanGroup/WISE as --judge-prompt"
        ) from error
    script = Path(str(package.locate_file("lmms_eval/tasks/WISE/utils.py")))
    return read_script(script.read_text(encoding="utf-8"), f"lmms-eval {package.version}")


def read_script(source: str, name: str) -> Wording:
    """The wording in the source of a Python script, which is read and not run.

    That is the f-string with the item's prompt and explanation in it, and where the script has a message of the role
    system, its text. Raises BenchError where there is no such f-string or more than one.
    """
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError) as error:  # Python 3.11 has the latter of a null byte
        raise BenchError(f"{name} is no Python script: {error}") from error
    advice = "copy what the judge is told into a text file, with {Prompt} and {Explanation} in it"
    templates = [_template(node) for node in nodes if isinstance(node, ast.JoinedStr)]
    texts = [text for text in templates if set(_PLACES.findall(text)) == {"Prompt", "Explanation"}]
    if len(texts) != 1:
        raise BenchError(f"{name} has {len(texts)} f-strings with prompt and explanation, it must be one: {advice}")
    systems = [text for node in nodes if isinstance(node, ast.Dict) and (text := _system_text(node)) is not None]
    if len(systems) > 1 or "" in systems:
        raise BenchError(f"{name} has no system message that can be read: {advice}")
    return Wording(texts[0], systems[0] if systems else None, name)


def _template(node: ast.JoinedStr) -> str:
    """The f-string with {Explanation} for a field that reads like one, and {Prompt} likewise."""
    parts = []
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            field = ast.unparse(part.value).lower()
            parts.append("{Explanation}" if "explanation" in field else "{Prompt}" if "prompt" in field else "{}")
        elif isinstance(part, ast.Constant):
            parts.append(str(part.value))
    return "".join(parts)


def _system_text(node: ast.Dict) -> str | None:
    """The text of a message such as {"role": "system", "content": [{"type": "text", "text": TEXT}]}, "" where it is
    none of the script's constants; None of what is no such message."""
    fields = {ast.unparse(key): value for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    if "'role'" not in fields or ast.unparse(fields["'role'"]) != "'system'":
        return None
    content = ast.walk(fields["'content'"]) if "'content'" in fields else ()
    constants = [part.value for part in content if isinstance(part, ast.Constant)]
    return max((text for text in constants if isinstance(text, str)), key=len, default="")


def _complete(found: Wording) -> Wording:
    missing = [place for place in ("{Prompt}", "{Explanation}") if place not in found.text]
    if missing:
        raise BenchError(f"{found.source} has no {missing[0]}, which stands for the item's own")
    return found
