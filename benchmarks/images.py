"""Image files from elsewhere: one way to open them, and what goes wrong with them."""

from __future__ import annotations

import os
from typing import IO

from PIL import Image, ImageFile

#: What PIL raises for a file that is no image, a broken one, or one that is too large.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)


def open_image(source: str | os.PathLike[str] | IO[bytes]) -> ImageFile.ImageFile:
    """``Image.open``, but more than ``Image.MAX_IMAGE_PIXELS`` (89 million) are refused before they are decoded.

    Pillow itself warns there and refuses from twice as many on. Raises one of ``UNREADABLE``, as may decoding.
    """
    # lmms_eval/api/task.py switches it on for the whole process: what is missing of a file would then be gray.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    image = Image.open(source)
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        image.close()
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels are more than {limit}")
    return image
