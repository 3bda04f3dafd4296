"""Which models there are: what ``--model`` takes, what each can do and what it needs."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import plugins


@dataclass(frozen=True)
class Kind:
    """One kind of model. ``spec`` is what the user writes, with the words in capitals replaced."""

    spec: str
    what: str
    draws: bool
    answers: bool
    needs: str

    @property
    def prefix(self) -> str:
        """What comes before the colon; the whole spec where there is none."""
        return self.spec.partition(":")[0]


_HUB = "a folder, or owner/name[@revision] on the Hugging Face hub"

MODELS: tuple[Kind, ...] = (
    Kind("toy", "the embedded BLIP3-o", True, True, "nothing"),
    Kind("oracle", "the embedded suite's ceiling", True, True, "nothing; embedded suite only"),
    Kind("blank", "the embedded suite's floor", True, True, "nothing"),
    Kind("NAME", "a BLIP3-o checkpoint", True, True, _HUB),
    Kind("janus:NAME", "Janus or Janus-Pro, converted for transformers", True, True, _HUB),
    Kind("emu3:NAME", "Emu3, converted for transformers (Gen draws, Chat answers)", True, True, _HUB),
    Kind("transformers:NAME", "any image-text-to-text model of transformers", False, True, _HUB),
    Kind("diffusers:NAME", "any text-to-image pipeline of diffusers", True, False, _HUB),
    Kind("openai-chat:URL#NAME", "a model behind chat completions", False, True, "a server; OPENAI_API_KEY if it asks"),
    Kind("openai-images:URL#NAME", "a model behind image generations", True, False, "a server; OPENAI_API_KEY too"),
    Kind("folder:DIR", "images that are there already", True, False, "a folder in the benchmark's own layout"),
    Kind("answers:FILE", "answers that are there already", False, True, "JSON lines of id and text"),
)


def table() -> str:
    """The kinds, then the plug-ins, whose packages are not imported for it."""
    rows = [("model", "draws", "answers", "what", "needs")]
    rows += [(kind.spec, _yes(kind.draws), _yes(kind.answers), kind.what, kind.needs) for kind in MODELS]
    rows += [
        (f"{name}:ARGUMENT", "?", "?", f"plug-in of {plugins.package(point)}", "see its documentation")
        for name, point in sorted(plugins.found("models").items())
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _yes(can: bool) -> str:
    return "yes" if can else "-"
