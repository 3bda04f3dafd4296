"""What goes wrong with image files."""

from __future__ import annotations

from PIL import Image

#: What PIL raises for a file that is no image, or a broken one.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
