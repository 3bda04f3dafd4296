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


_WEIGHTS = "[models], a folder or owner/name[@revision]"
_SERVER = "[understanding], a server, its OPENAI_API_KEY"

#: In brackets, the extra of this package that a kind needs.
MODELS: tuple[Kind, ...] = (
    Kind("toy", "the embedded BLIP3-o", True, True, "[models]"),
    Kind("oracle", "the ceiling of the embedded suite", True, True, "-"),
    Kind("blank", "the floor of the embedded suite", True, True, "-"),
    Kind("NAME", "a BLIP3-o checkpoint", True, True, _WEIGHTS),
    Kind("janus:NAME", "Janus or Janus-Pro for transformers", True, True, _WEIGHTS),
    Kind("emu3:NAME", "Emu3-Gen or Emu3-Chat for transformers", True, True, _WEIGHTS),
    Kind("transformers:NAME", "any image-text-to-text model", False, True, _WEIGHTS),
    Kind("diffusers:NAME", "any text-to-image pipeline", True, False, _WEIGHTS),
    Kind("openai-chat:URL#NAME", "chat completions of a server", False, True, _SERVER),
    Kind("openai-images:URL#NAME", "image generations of a server", True, False, _SERVER),
    Kind("folder:DIR", "images that are there already", True, False, "the benchmark's own layout"),
    Kind("answers:FILE", "answers that are there already", False, True, "JSON lines of id and text"),
)


def tasks(spec: str) -> frozenset[str]:
    """What a model of this spec can do, before it is loaded; both where only its plug-in knows."""
    prefix = spec.partition(":")[0]
    kind = next((kind for kind in MODELS if kind.prefix == prefix), None)
    if kind is None:
        return frozenset({"generate", "answer"})
    return frozenset({"generate"} if kind.draws else ()) | frozenset({"answer"} if kind.answers else ())


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
