"""Judges that answer a prompt, about images too: an OpenAI-compatible server, a local model, a file of replies.

A reply is text; what it is worth is the benchmark's rule. A question that gets no usable reply raises JudgeError.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.judges.weights import checked_digest
from benchmarks.server import Prices, Received, ReplyError, Server, Usage, brief, read_completion
from benchmarks.types import BenchError, Json, JudgeError

if TYPE_CHECKING:
    from PIL import Image, ImageFile


@dataclass(frozen=True)
class ChatReply:
    """A reply, the tokens it took (0 where nobody counted them) and its cost in US dollars, None without prices."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(frozen=True)
class Question:
    """What a judge is asked in one message of the user. Temperature 0 is greedy.

    ``key`` names the question: a repetition that is to be answered anew is another key. ``images`` are files of PNG,
    JPEG or another format that the judge reads; they stand behind the prompt. ``system`` is the system message.
    ``thinking`` is the chat template's ``enable_thinking``, as Qwen3 has it; None leaves that to the template.
    """

    prompt: str
    temperature: float
    max_tokens: int
    key: str
    images: Sequence[bytes] = ()
    system: str | None = None
    thinking: bool | None = None


class Chat(Protocol):
    """Something that answers prompts. ``concurrency`` is how many ``ask`` may run at once, in threads."""

    @property
    def concurrency(self) -> int: ...

    def describe(self) -> Mapping[str, Json]:
        """Everything about the judge that determines its replies."""

    def ask(self, question: Question) -> ChatReply:
        """The reply. Raises JudgeError when there is no usable one to this question, BenchError when there will be to
        none."""


def ask_many(chat: Chat, questions: Sequence[Question]) -> list[ChatReply | JudgeError]:
    """Ask as many at once as ``chat`` allows, as ``at_once`` does."""
    return at_once([partial(chat.ask, question) for question in questions], chat.concurrency)


def at_once(asks: Sequence[Callable[[], ChatReply]], concurrency: int) -> list[ChatReply | JudgeError]:
    """The replies in the order of ``asks``, called in ``concurrency`` threads; a JudgeError stands for its reply.

    A BenchError goes through once the questions under way are answered; those that wait are not asked.
    """

    def answer(ask: Callable[[], ChatReply]) -> ChatReply | JudgeError:
        try:
            return ask()
        except JudgeError as error:
            return error

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(answer, asks))  # at an error, map cancels what has not begun


def messages(prompt: str, system: str | None = None, images: Sequence[str] = ()) -> list[Json]:
    """The messages of a chat completion; ``images`` are URLs."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    user = {"role": "user", "content": [{"type": "text", "text": prompt}, *pictures] if pictures else prompt}
    return [user] if system is None else [{"role": "system", "content": system}, user]


def data_url(image: bytes) -> str:
    """An image file as a URL that holds it, of the type that it is. Raises JudgeError for what is no image."""
    return f"data:{_header(image)[0]};base64,{base64.b64encode(image).decode()}"


def image_tokens(image: bytes) -> int:
    """More prompt tokens than any way of counting that we know of makes of an image file.

    The dearest is OpenAI's of gpt-4o-mini: 2833, and 5667 for each tile of 512 x 512 pixels of the image scaled to a
    short side of 768 (platform.openai.com/docs/guides/images-vision). Of the image as it is, that is above one token
    per 14 x 14 pixels, which covers what open models make. Raises JudgeError for what is no image.
    """
    _, width, height = _header(image)
    scales = (1.0, 768 / min(width, height))
    tiles = max(math.ceil(width * scale / 512) * math.ceil(height * scale / 512) for scale in scales)
    return 2833 + 5667 * tiles


def highest_cost(prices: Prices | None, texts: Sequence[str], images: Sequence[bytes], max_tokens: int) -> float:
    """US dollars; no request costs more, and without prices none is known to cost anything.

    A tokenizer makes at most one token of a byte; 256 are for the chat template.
    """
    if prices is None:
        return 0.0
    written = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return prices.cost(written + sum(map(image_tokens, images)) + 256, max_tokens)


def _header(image: bytes) -> tuple[str, int, int]:
    """Media type, width and height."""
    with _opened(image) as opened:
        media = opened.get_format_mimetype()
        if media is None:
            raise JudgeError(f"an image in the format {opened.format} has no media type: give PNG or JPEG")
        return media, opened.width, opened.height


def _decoded(image: bytes) -> Image.Image:
    with _opened(image) as opened:
        return opened.convert("RGB")


@contextmanager
def _opened(image: bytes) -> Iterator[ImageFile.ImageFile]:
    from benchmarks.images import UNREADABLE, open_image

    try:
        with open_image(io.BytesIO(image)) as opened:
            yield opened
    except UNREADABLE as error:
        raise JudgeError(f"what the judge is to look at is no image: {brief(error)}") from error


# An OpenAI-compatible server


class Endpoint:
    """A judge behind an OpenAI-compatible server. Threads may share one, and processes its cache."""

    def __init__(
        self,
        base_url: str,
        model: str,
        cache: Path,
        *,
        prices: Prices | None = None,
        max_cost: float | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        attempts: int = 6,
        backoff: float = 2.0,
    ) -> None:
        """As ``Server``; ``cache`` is a file that keeps replies and charges, and what it holds is not asked again.

        Raises BenchError for an address without http, and for a budget without prices.
        """
        if not base_url.startswith(("http://", "https://")):
            raise BenchError(f"the judge's address {base_url!r} is no URL: give one such as http://localhost:8000/v1")
        if max_cost is not None and prices is None:
            raise BenchError("--max-judge-cost needs the judge's prices in dollars per million tokens")
        self.concurrency = concurrency
        self._prices = prices
        self._server = Server(
            "judge", base_url, model, cache, max_cost=max_cost, timeout=timeout, attempts=attempts, backoff=backoff
        )

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "endpoint", "base_url": self._server.url, "model": self._server.model}

    def usage(self) -> Usage:
        return self._server.ledger.usage()

    def ask(self, question: Question) -> ChatReply:
        """As ``Chat.ask``; a reply that the cache holds costs nothing and keeps the cost it had.

        Raises BudgetError before a request that could pass ``max_cost``.
        """
        prompt, system = question.prompt, question.system
        request: dict[str, Json] = {
            "model": self._server.model,
            # Of images the digests name the question; the files themselves are encoded only where it has to be asked.
            "messages": messages(prompt, system, [hashlib.sha256(image).hexdigest() for image in question.images]),
            "temperature": question.temperature,
            "max_tokens": question.max_tokens,
        }
        if question.thinking is not None:
            # docs.vllm.ai, "Reasoning Outputs"; SGLang takes the same field.
            request["extra_body"] = {"chat_template_kwargs": {"enable_thinking": question.thinking}}
        named = json.dumps([self._server.url, question.key, request], sort_keys=True)
        digest = hashlib.sha256(named.encode()).hexdigest()
        stored = self._server.ledger.replies.get(digest)
        if stored is not None:
            return ChatReply(*stored)
        request["messages"] = messages(prompt, system, [data_url(image) for image in question.images])
        highest = highest_cost(self._prices, [system or "", prompt], question.images, question.max_tokens)
        try:
            return self._server.ask(
                lambda client: client.chat.completions.with_raw_response.create(**request).text,
                partial(self._received, highest=highest, name={"question": digest, "key": question.key}),
                highest,
            )
        except ReplyError as error:
            raise JudgeError(str(error)) from error

    def _received(self, body: str, highest: float, name: Mapping[str, str]) -> Received[ChatReply]:
        """The reply, which costs ``highest`` where the server does not count tokens; an empty one has no name."""
        text, *tokens = read_completion(body)
        cost = None if self._prices is None else self._prices.cost(*tokens) if any(tokens) else highest
        reply = ChatReply(text or "", tokens[0], tokens[1], cost)
        row = asdict(reply)
        if not reply.text.strip():
            del row["text"]
            return Received(ReplyError(f"{self._server.model}: the reply is empty"), cost, row)
        return Received(reply, cost, {**row, **name})


# A file of replies


def file_of_replies(path: Path) -> bytes:
    """Its content. Raises BenchError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read the judge's replies {path}: {error.strerror}") from error


@dataclass(frozen=True)
class Replay:
    """Replies from a JSONL file of {"key": ..., "text": ...}, such as an Endpoint's cache; of one key the last counts.

    Prompt and images are not compared: the key alone names the question.
    """

    path: Path
    concurrency: int = field(default=1, init=False)

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "replay", "sha256": hashlib.sha256(self._data).hexdigest()}

    def ask(self, question: Question) -> ChatReply:
        """As ``Chat.ask``. Raises BenchError when the file is absent or is no file of replies."""
        text = self._texts.get(question.key, "")
        if not text.strip():  # an empty reply is none, as an Endpoint's
            raise JudgeError(f"{self.path} has no reply for {question.key}")
        return ChatReply(text, 0, 0, None)

    @cached_property
    def _data(self) -> bytes:
        return file_of_replies(self.path)

    @cached_property
    def _texts(self) -> Mapping[str, str]:
        texts = {}
        for number, line in enumerate(self._data.split(b"\n"), start=1):
            try:
                row = json.loads(line or b'{"charge": 0}')
                if "key" in row or "charge" not in row:  # an Endpoint's charges are between its replies
                    texts[str(row["key"])] = "" if row["text"] is None else str(row["text"])
            except (ValueError, LookupError, TypeError) as error:
                raise BenchError(
                    f'{self.path}, line {number} is no reply: it must be {{"key": ..., "text": ...}}'
                ) from error
        return texts


# A model on this machine


@dataclass(frozen=True)
class LocalModel:
    """A causal language model or VLM in ``folder``, as transformers saves it; ``name`` is for the record.

    Loaded at the first question. Above temperature 0 the draws of a question are seeded by its key.
    """

    folder: Path
    name: str
    device: str = "cpu"
    concurrency: int = field(default=1, init=False)

    def describe(self) -> Mapping[str, Json]:
        digest = hashlib.sha256()
        for path in sorted(path for path in self.folder.glob("*") if path.is_file()):
            digest.update(f"{path.name} {checked_digest(path, None)}\n".encode())
        return {"kind": "local", "model": self.name, "files_sha256": digest.hexdigest()}

    def ask(self, question: Question) -> ChatReply:
        """As ``Chat.ask``. Raises BenchError when the model cannot be loaded, is none that chats, or does not see
        the images that it is asked about."""
        import torch

        model, tokenizer = self._loaded
        tokens = self._tokens(question).to(model.device)
        length = tokens["input_ids"].shape[1]
        temperature = question.temperature
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {}
        with torch.inference_mode(), torch.random.fork_rng(devices=[model.device] * (model.device.type == "cuda")):
            torch.manual_seed(int.from_bytes(hashlib.sha256(question.key.encode()).digest()[:8], "big"))
            (row,) = model.generate(**tokens, max_new_tokens=question.max_tokens, **sampling)
        text = tokenizer.decode(row[length:], skip_special_tokens=True)
        if not text.strip():
            raise JudgeError(f"{self.name}: the reply is empty")
        return ChatReply(text, length, len(row) - length, None)

    def _tokens(self, question: Question) -> Any:
        """What the model takes, by its chat template; with images, their pixels too."""
        prompt, system = question.prompt, question.system
        template = {} if question.thinking is None else {"enable_thinking": question.thinking}
        if not question.images:
            _, tokenizer = self._loaded
            return tokenizer.apply_chat_template(
                messages(prompt, system), add_generation_prompt=True, return_dict=True, return_tensors="pt", **template
            )
        pictures = [{"type": "image", "image": _decoded(image)} for image in question.images]
        conversation = [{"role": "user", "content": [{"type": "text", "text": prompt}, *pictures]}]
        if system is not None:
            conversation.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        return self._processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **template
        )

    @cached_property
    def _processor(self) -> Any:
        """Of text and images together."""
        from transformers import AutoProcessor

        blind = f"the judge {self.name} sees no images: choose a vision-language model"
        try:
            processor = AutoProcessor.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise BenchError(f"{blind} ({brief(error)})") from error
        if getattr(processor, "image_processor", None) is None:  # a tokenizer alone
            raise BenchError(blind)
        return processor

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model in evaluation mode, and tokenizer."""
        import torchvision_guard

        torchvision_guard.install()  # transformers imports torchvision
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoTokenizer,
            GenerationConfig,
        )
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

        try:
            config = AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
            sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
            auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
            model = auto.from_pretrained(self.folder, dtype="auto", local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise BenchError(f"cannot load the judge {self.name}: {brief(error)}") from error
        if tokenizer.chat_template is None:
            raise BenchError(f"the judge {self.name} has no chat template: choose an instruction-tuned model")
        # What else a checkpoint recommends (top_p, repetition_penalty and the like) is not the benchmark's.
        ends = model.generation_config
        model.generation_config = GenerationConfig(eos_token_id=ends.eos_token_id, pad_token_id=ends.pad_token_id)
        return model.to(self.device).eval(), tokenizer
