"""A model behind an OpenAI-compatible server in place of one here: chat completions answer, image generations draw."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from benchmarks.images import UNREADABLE, open_image
from benchmarks.judges.chat import data_url, highest_cost
from benchmarks.server import BudgetError, Prices, Received, ReplyError, Server, Usage, read_completion
from benchmarks.types import BenchError, Json, Sample

if TYPE_CHECKING:
    import openai
    from PIL import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Request(Generic[T]):
    """The arguments of one ``Server.ask``."""

    send: Callable[[openai.OpenAI], str]
    read: Callable[[str], Received[T]]
    highest: float


class ModelEndpoint:
    """A server, and what it is asked of a batch."""

    def __init__(self, address: str, charges: Path, max_cost: float | None, priced: bool, attempts: int) -> None:
        """``address`` is the base URL, ``#`` and the server's name of the model: ``http://localhost:8000/v1#NAME``.

        The key is taken from the environment variable OPENAI_API_KEY. The file ``charges`` keeps what was asked and
        what that cost; ``max_cost`` (US dollars) bounds it, over all processes and starts. What may pass is tried so
        many times in all, with pauses as ``Server`` makes them. Raises BenchError for another address, and for a budget
        of what is not ``priced``.
        """
        url, _, model = address.partition("#")
        if not url.startswith(("http://", "https://")) or not model:
            raise BenchError(f"{address!r} names no server and model: give one such as http://localhost:8000/v1#NAME")
        if max_cost is not None and not priced:
            raise BenchError("--max-model-cost needs --model-prices for openai-chat, --image-price for openai-images")
        # An image may take minutes.
        self._server = Server(
            "model", url, model, charges, max_cost=max_cost, timeout=600.0, attempts=attempts, backoff=2.0
        )

    def describe(self) -> Mapping[str, Json]:
        """The server's word is all that is known about the weights."""
        return {"name": self._server.model, "base_url": self._server.url}

    def usage(self) -> Usage:
        return self._server.ledger.usage()

    def _at_once(
        self,
        prepare: Callable[[Sample, int], Request[T] | Exception],
        samples: Sequence[Sample],
        seeds: Sequence[int],
    ) -> list[T | Exception]:
        """A batch is asked together: its size is the number of requests at a time.

        Raises BudgetError before a batch that could pass the budget, and BenchError where the server refuses each of
        it: nothing that was paid for is lost by either.
        """
        with ThreadPoolExecutor(max(1, len(samples))) as pool:
            requests = list(pool.map(prepare, samples, seeds))
            self._server.ledger.require([one.highest for one in requests if isinstance(one, Request)])
            results = list(pool.map(self._asked, requests))
        if all(isinstance(one, Exception) for one in results):
            for one in results:
                if isinstance(one, BenchError) and not isinstance(one, BudgetError):
                    raise one
        return results

    def _asked(self, request: Request[T] | Exception) -> T | Exception:
        """What the server makes of it, or this sample's error."""
        if isinstance(request, Exception):
            return request
        try:
            return self._server.ask(request.send, request.read, request.highest)
        except (ReplyError, BenchError) as error:  # the budget's where a repetition, or another process, spent it
            return error


class ChatEndpoint(ModelEndpoint):
    """Answers by ``/chat/completions``."""

    def __init__(
        self,
        address: str,
        charges: Path,
        prices: Prices | None = None,
        max_cost: float | None = None,
        attempts: int = 6,
    ) -> None:
        """As ``ModelEndpoint``, at ``prices``."""
        super().__init__(address, charges, max_cost, prices is not None, attempts)
        self._prices = prices

    def answer(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[str | Exception]:
        """One reply per sample, cut at its first stop string, or why there is none. Raises BenchError where the
        server refuses each, and BudgetError before the batch that could pass the budget.

        One message of the user: images first, as PNG, then the question. A sampled reply is asked for with the
        sample's seed, which a server may ignore.
        """
        return self._at_once(self._question, samples, seeds)

    def _question(self, sample: Sample, seed: int) -> Request[str] | Exception:
        import openai

        try:
            images = [_png(open_image()) for open_image in sample.images]
        except UNREADABLE as error:
            return error
        decoding = sample.decoding
        content: list[Json] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
        content.append({"type": "text", "text": sample.prompt})

        def send(client: openai.OpenAI) -> str:
            return client.chat.completions.with_raw_response.create(
                model=self._server.model,
                messages=[{"role": "user", "content": content}],
                max_tokens=decoding.max_new_tokens,
                temperature=decoding.temperature,
                seed=seed if decoding.temperature > 0 else openai.omit,
            ).text

        highest = highest_cost(self._prices, [sample.prompt], images, decoding.max_new_tokens)
        return Request(send, partial(self._reply, sample=sample), highest)

    def _reply(self, body: str, sample: Sample) -> Received[str]:
        """Where the server counts no tokens, the charge stays at its highest."""
        reply, *tokens = read_completion(body)
        cost = self._prices.cost(tokens[0], tokens[1]) if self._prices and any(tokens) else None
        counted = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
        if reply is None:
            return Received(ReplyError(f"{self._server.model} sent no text but {body[:80]!r}"), cost, counted)
        for stop in sample.decoding.stop:
            reply = reply.split(stop)[0]
        return Received(reply, cost, {"key": sample.id, **counted})


class ImagesEndpoint(ModelEndpoint):
    """Draws by ``/images/generations``. That interface has no seed: a new run draws other images."""

    def __init__(
        self,
        address: str,
        charges: Path,
        size: int | None = None,
        price: float | None = None,
        max_cost: float | None = None,
        attempts: int = 6,
    ) -> None:
        """As ``ModelEndpoint``, at a ``price`` in US dollars of each image that the server may have drawn.

        ``size`` is that of both sides in pixels; None leaves it to the server.
        """
        super().__init__(address, charges, max_cost, price is not None, attempts)
        self.size = size
        self._price = price

    def describe(self) -> Mapping[str, Json]:
        return {**super().describe(), "size": self.size, "seeded": False}

    def generate(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Image.Image | Exception]:
        """One image per sample, or why there is none. Raises BenchError as ``ChatEndpoint`` does."""
        return self._at_once(self._order, samples, seeds)

    def _order(self, sample: Sample, seed: int) -> Request[Image.Image]:
        import openai

        def send(client: openai.OpenAI) -> str:
            return client.images.with_raw_response.generate(
                model=self._server.model,
                prompt=sample.prompt,
                size=f"{self.size}x{self.size}" if self.size else openai.omit,
                # OpenAI's own GPT models refuse the parameter, and send no URL anyway
                # (platform.openai.com/docs/api-reference/images/create).
                response_format=openai.omit if self._server.model.startswith("gpt-image") else "b64_json",
            ).text

        return Request(send, partial(self._image, sample=sample), self._price or 0.0)

    def _image(self, body: str, sample: Sample) -> Received[Image.Image]:
        try:
            encoded = json.loads(body)["data"][0]["b64_json"]
            image = open_image(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        except (ValueError, LookupError, TypeError, RecursionError, *UNREADABLE) as error:
            return Received(ReplyError(f"{self._server.model} sent no image but {body[:80]!r}: {error}"))
        return Received(image, row={"key": sample.id})


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
