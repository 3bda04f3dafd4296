"""A model behind an OpenAI-compatible server in place of one here: chat completions answer, image generations draw.

Requests go through the openai package, which tries again what may pass: no answer in time, 408, 409, 429 and 5xx.
"""

from __future__ import annotations

import base64
import io
import json
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from benchmarks.images import UNREADABLE, open_image
from benchmarks.judges.chat import KEY_VARIABLE, NO_CREDIT, brief, data_url, unreachable
from benchmarks.types import BenchError, Json, Sample

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


class ReplyError(Exception):
    """The server sent something else than what was asked for."""


class _Endpoint:
    """The server's name and address, and what its refusals mean."""

    def __init__(self, address: str, retries: int = 10) -> None:
        """``address`` is the base URL, ``#`` and the server's name of the model: ``http://localhost:8000/v1#NAME``.

        The key is taken from the environment variable OPENAI_API_KEY. Raises BenchError for another address.
        """
        import openai

        url, _, self.model = address.partition("#")
        if not url.startswith(("http://", "https://")) or not self.model:
            raise BenchError(f"{address!r} names no server and model: give one such as http://localhost:8000/v1#NAME")
        self.url = url.rstrip("/")
        self._client = openai.OpenAI(
            base_url=self.url, api_key=os.environ.get(KEY_VARIABLE) or "EMPTY", max_retries=retries
        )
        # Connections are closed with the object, not whenever the garbage collector finds them.
        weakref.finalize(self, self._client.close)

    def describe(self) -> Mapping[str, Json]:
        """The server's word is all that is known about the weights."""
        return {"name": self.model, "base_url": self.url}

    def _at_once(
        self, ask: Callable[[Sample, int], T | Exception], samples: Sequence[Sample], seeds: Sequence[int]
    ) -> list[T | Exception]:
        """A batch is asked together: its size is the number of requests at a time."""
        with ThreadPoolExecutor(max(1, len(samples))) as pool:
            return list(pool.map(lambda sample, seed: self._asked(ask, sample, seed), samples, seeds))

    def _asked(self, ask: Callable[[Sample, int], T | Exception], sample: Sample, seed: int) -> T | Exception:
        """A user's error where the server would refuse every request, this sample's error where it refuses this one."""
        import openai

        try:
            return ask(sample, seed)
        except openai.APIStatusError as error:
            said = f"{self.model} at {self.url} answered {brief(error)}"
            if error.status_code == 401:
                raise BenchError(f"{said}: set {KEY_VARIABLE} to its key") from error
            if error.status_code == 402 or error.code == NO_CREDIT:
                raise BenchError(f"{said}: its account has no credit left") from error
            if error.status_code == 404:
                raise BenchError(f"{said}: give a model that it serves for this, and its base URL") from error
            return error
        except openai.APIConnectionError as error:
            if unreachable(error):
                raise BenchError(
                    f"no server answers at {self.url}: start it, or correct its address; "
                    "what is stored is kept, and the same command resumes"
                ) from error
            return error
        except ReplyError as error:
            return error

    def _read(self, body: str, *path: str | int) -> str:
        """The text that stands at ``path`` of a JSON reply. Raises ReplyError when there is none."""
        try:
            found = json.loads(body)
            for step in path:
                found = found[step]
        except (ValueError, LookupError, TypeError):
            found = None
        if not isinstance(found, str):
            raise ReplyError(f"{self.model} sent no {path[-1]} but {body[:80]!r}")
        return found


class ChatEndpoint(_Endpoint):
    """Answers by ``/chat/completions``."""

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str | Exception]:
        """One reply per sample, cut at its first stop string, or why there is none. Raises BenchError as above.

        One message of the user: images first, as PNG, then the question. A sampled reply is asked for with the
        sample's seed, which a server may ignore.
        """
        return self._at_once(self._answer, samples, seeds)

    def _answer(self, sample: Sample, seed: int) -> str | Exception:
        import openai

        try:
            images = [data_url(_png(open_image())) for open_image in sample.images]
        except UNREADABLE as error:
            return error
        content: list[Json] = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        content.append({"type": "text", "text": sample.prompt})
        response = self._client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[{"role": "user", "content": content}],
            max_tokens=sample.decoding.max_new_tokens,
            temperature=sample.decoding.temperature,
            seed=seed if sample.decoding.temperature > 0 else openai.omit,
        )
        reply = self._read(response.text, "choices", 0, "message", "content")
        for stop in sample.decoding.stop:
            reply = reply.split(stop)[0]
        return reply


class ImagesEndpoint(_Endpoint):
    """Draws by ``/images/generations``. That interface has no seed: a new run draws other images."""

    def __init__(self, address: str, size: int | None = None, retries: int = 10) -> None:
        """As ``ChatEndpoint``. ``size`` is that of both sides in pixels; None leaves it to the server."""
        super().__init__(address, retries)
        self.size = size

    def describe(self) -> Mapping[str, Json]:
        return {**super().describe(), "size": self.size, "seeded": False}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image | Exception]:
        """One image per sample, or why there is none. Raises BenchError as ``ChatEndpoint`` does."""
        return self._at_once(self._draw, samples, seeds)

    def _draw(self, sample: Sample, seed: int) -> Image.Image | Exception:
        import openai

        response = self._client.images.with_raw_response.generate(
            model=self.model,
            prompt=sample.prompt,
            size=f"{self.size}x{self.size}" if self.size else openai.omit,
            # OpenAI's own GPT models refuse the parameter, and send no URL anyway
            # (platform.openai.com/docs/api-reference/images/create).
            response_format=openai.omit if self.model.startswith("gpt-image") else "b64_json",
        )
        encoded = self._read(response.text, "data", 0, "b64_json")
        try:
            return open_image(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        except UNREADABLE as error:
            return error


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
