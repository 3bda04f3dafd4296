"""Self-contained pages: everything escaped, nothing loaded from elsewhere, one script that the page itself names."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reports.tables import straight

_FOLDER = Path(__file__).parent


def page(template: str, values: Mapping[str, Any]) -> str:
    """Fill in one of the templates beside this file.

    The page's content security policy allows this script alone, by its digest, and no request: should text ever
    escape its place, it could neither run nor report.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    filled = environment.get_template(template).render(script=Markup(script), script_digest=digest, **values)
    return straight(filled).encode("utf-8", "replace").decode("utf-8")  # a reply may hold half a surrogate pair
