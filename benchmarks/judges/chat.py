"""Judges that answer a prompt, about images too: an OpenAI-compatible server, a local model, a file of replies.

A reply is text; what it is worth is the benchmark's rule. A question that gets no usable reply raises JudgeError.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.judges.weights import checked_digest
from benchmarks.types import BenchError, Json, JudgeError

if TYPE_CHECKING:
    from io import FileIO

    import openai
    from PIL import Image, ImageFile

#: Environment variable with the server's key. Servers of one's own, such as vLLM, take any.
KEY_VARIABLE = "OPENAI_API_KEY"
#: The code of a 429 that no pause mends (platform.openai.com/docs/guides/error-codes).
NO_CREDIT = "insufficient_quota"


class BudgetError(BenchError):
    """The next question may cost more than is left of the budget."""


@dataclass(frozen=True)
class ChatReply:
    """A reply, the tokens it took (0 where nobody counted them) and its cost in US dollars, None without prices."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(frozen=True)
class Question:
    """The arguments of one ``Chat.ask``."""

    prompt: str
    temperature: float
    max_tokens: int
    key: str


class Chat(Protocol):
    """Something that answers prompts of text. ``concurrency`` is how many ``ask`` may run at once, in threads."""

    @property
    def concurrency(self) -> int: ...

    def describe(self) -> Mapping[str, Json]:
        """Everything about the judge that determines its replies."""

    def ask(self, prompt: str, *, temperature: float, max_tokens: int, key: str) -> ChatReply:
        """The reply to one user message; temperature 0 is greedy.

        ``key`` names the question: a repetition that is to be answered anew is another key.
        Raises JudgeError when there is no usable reply to this question, BenchError when there will be to none.
        """


class ImageChat(Protocol):
    """A ``Chat`` that looks at images too."""

    @property
    def concurrency(self) -> int: ...

    def describe(self) -> Mapping[str, Json]: ...

    def ask(
        self,
        prompt: str,
        *,
        temperature: float,
        max_tokens: int,
        key: str,
        images: Sequence[bytes] = (),
        system: str | None = None,
        thinking: bool | None = None,
    ) -> ChatReply:
        """As ``Chat.ask``, about ``images``: files of PNG, JPEG or another format that the judge reads.

        They stand behind the prompt. ``system`` is the system message. ``thinking`` is the chat template's
        ``enable_thinking``, as Qwen3 has it; None leaves that to the template.
        """


def ask_many(chat: Chat, questions: Sequence[Question]) -> list[ChatReply | JudgeError]:
    """Ask as many at once as ``chat`` allows, as ``at_once`` does."""
    asks = [
        partial(chat.ask, one.prompt, temperature=one.temperature, max_tokens=one.max_tokens, key=one.key)
        for one in questions
    ]
    return at_once(asks, chat.concurrency)


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


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


@dataclass
class Usage:
    """What a judge's questions took so far, those of earlier starts included.

    ``cost`` in US dollars is what was billed at most: a request without a known end counts in full.
    """

    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class Endpoint:
    """A model behind an OpenAI-compatible server. Threads may share one, and processes its cache.

    Requests go through the openai package: addresses, keys, proxies, connections and error classes are its affair.
    Its own retries are off, because a request that timed out may be billed and so has to be counted as it happens.
    """

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
        """``base_url`` ends in /v1 as a rule; the key is taken from the environment variable OPENAI_API_KEY.

        ``cache`` is a file that keeps replies and charges; what it holds is not asked again. ``max_cost`` (US
        dollars) bounds all that the file has charged, by any process and start. ``timeout`` is in seconds without
        a byte. Of ``attempts`` the n-th is followed by a random pause of up to ``backoff`` * 2**(n - 1) seconds,
        at most 60, to which is added what the server asks for, at most 300.

        Raises BenchError for an address without http, and for a budget without prices.
        """
        import openai
        import tenacity

        if not base_url.startswith(("http://", "https://")):
            raise BenchError(f"the judge's address {base_url!r} is no URL: give one such as http://localhost:8000/v1")
        if max_cost is not None and prices is None:
            raise BenchError("--max-judge-cost needs the judge's prices in dollars per million tokens")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self._prices = prices
        self._ledger = _Ledger(cache, max_cost)
        self._client = openai.OpenAI(
            base_url=self.base_url,
            api_key=os.environ.get(KEY_VARIABLE) or "EMPTY",
            timeout=openai.Timeout(timeout, connect=min(timeout, 10.0)),
            max_retries=0,
        )
        # Connections are closed with the object, not whenever the garbage collector finds them.
        weakref.finalize(self, self._client.close)
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            # The sum, since every thread is told the same second to come back.
            wait=tenacity.wait_exception(_retry_after) + tenacity.wait_random_exponential(multiplier=backoff, max=60),
            stop=tenacity.stop_after_attempt(attempts),
            reraise=True,
        )

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "endpoint", "base_url": self.base_url, "model": self.model}

    def usage(self) -> Usage:
        return replace(self._ledger.usage)

    def ask(
        self,
        prompt: str,
        *,
        temperature: float,
        max_tokens: int,
        key: str,
        images: Sequence[bytes] = (),
        system: str | None = None,
        thinking: bool | None = None,
    ) -> ChatReply:
        """As ``ImageChat.ask``; a reply that the cache holds costs nothing and keeps the cost it had.

        Raises BudgetError before a request that could pass ``max_cost``.
        """
        import openai

        request: dict[str, Json] = {
            "model": self.model,
            # Of images the digests name the question; the files themselves are encoded only where it has to be asked.
            "messages": messages(prompt, system, [hashlib.sha256(image).hexdigest() for image in images]),
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        if thinking is not None:
            # docs.vllm.ai, "Reasoning Outputs"; SGLang takes the same field.
            request["extra_body"] = {"chat_template_kwargs": {"enable_thinking": thinking}}
        question = hashlib.sha256(json.dumps([self.base_url, key, request], sort_keys=True).encode()).hexdigest()
        stored = self._ledger.replies.get(question)
        if stored is not None:
            return stored
        request["messages"] = messages(prompt, system, [data_url(image) for image in images])
        try:
            highest = self._highest_cost([system or "", prompt], images, max_tokens)
            return self._retrying(self._attempt, request, highest, question, key)
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APIConnectionError as error:
            if unreachable(error):
                raise BenchError(
                    f"no judge answers at {self.base_url}: start it, or correct its address; "
                    "what is answered is kept, and the same command resumes"
                ) from error
            raise JudgeError(f"{self.model}: {brief(error)}") from error
        except UnicodeEncodeError as error:  # half a surrogate pair in the answer that is to be judged
            raise JudgeError(f"the prompt is no text that can be sent: {brief(error)}") from error

    def _attempt(self, request: Mapping[str, Json], highest: float, question: str, key: str) -> ChatReply:
        """One request, charged at its ``highest`` price until its end is known."""
        import openai

        self._ledger.reserve(highest)
        correction = 0.0  # a request without a known end, such as one that timed out, stays charged
        row: dict[str, Json] = {}
        try:
            response = self._client.chat.completions.with_raw_response.create(**request)
            reply = self._read(response.text, highest)
            correction = 0.0 if reply.cost is None else reply.cost - highest
            row = asdict(reply)
            if not reply.text.strip():
                del row["text"]
                raise JudgeError(f"{self.model}: the reply is empty")
            row |= {"question": question, "key": key}
            return reply
        except openai.APIError as error:
            if _unbilled(error):
                correction = -highest
            raise
        finally:
            self._ledger.settle(correction, row)

    def _highest_cost(self, texts: Sequence[str], images: Sequence[bytes], max_tokens: int) -> float:
        """No request costs more: a tokenizer makes at most one token of a byte; 256 are for the chat template."""
        if self._prices is None:
            return 0.0
        prompt_tokens = sum(len(text.encode()) for text in texts) + sum(map(image_tokens, images)) + 256
        return self._prices.cost(prompt_tokens, max_tokens)

    def _read(self, body: str, highest: float) -> ChatReply:
        """The reply in a chat completion, which costs ``highest`` where the server does not count tokens."""
        try:
            completion = json.loads(body)
            text = completion["choices"][0]["message"]["content"] or ""
            usage = completion.get("usage") or {"prompt_tokens": 0, "completion_tokens": 0}
            tokens = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise JudgeError(f"{self.model}: the server sent no chat completion but {body[:80]!r}") from error
        cost = None if self._prices is None else self._prices.cost(*tokens) if any(tokens) else highest
        return ChatReply(str(text), *tokens, cost)

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """A user's error where the server would refuse every question, a missing reply where it refuses this one."""
        said = f"the judge {self.model} at {self.base_url} answered {brief(error)}"
        if error.status_code == 401:
            return BenchError(f"{said}: set {KEY_VARIABLE} to its key")
        if error.status_code == 402 or error.code == NO_CREDIT:
            return BenchError(f"{said}: its account has no credit left")
        if error.status_code == 404:
            return BenchError(f"{said}: give a model that it serves and its base URL, such as http://localhost:8000/v1")
        return JudgeError(said)


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer in time, a broken connection, 408, 429, 5xx."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return (error.status_code in (408, 429) or error.status_code >= 500) and error.code != NO_CREDIT
    return isinstance(error, openai.APIConnectionError)


def _unbilled(error: openai.APIError) -> bool:
    """Whether no model has worked on the request for certain: refused, or not even received."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code not in (408, 502, 504)  # a gateway that waited no longer; the model may have gone on
    return unreachable(error)


def _retry_after(error: BaseException) -> float:
    """The pause that the server asks for, in seconds, at most 300; 0 when it asks for none."""
    import openai

    asked = error.response.headers.get("retry-after", "") if isinstance(error, openai.APIStatusError) else ""
    return min(float(asked), 300.0) if asked.isdecimal() else 0.0


def unreachable(error: BaseException | None) -> bool:
    """Whether nothing listens there, in contrast to a server that broke off over one question."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return True
        error = error.__cause__ or error.__context__
    return False


def brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


class _Ledger:
    """Replies and charges in one append-only JSONL file, shared by threads and by processes.

    The sum of all ``charge`` is what was billed at most: a request is charged at its highest price before it is
    sent, and corrected when its end is known. So a killed process hides no cost, and nobody has to tidy up after it.
    A line with a ``key`` is a reply; ``Replay`` reads the file.
    """

    def __init__(self, path: Path, limit: float | None) -> None:
        """Raises BenchError when the file cannot be written or is damaged."""
        self.path = path
        self.limit = limit
        self.replies: dict[str, ChatReply] = {}
        self.usage = Usage()
        self._end = 0  # bytes read so far
        self._in_flight = 0
        self._settled = threading.Condition()
        with self._exclusive():
            pass

    def reserve(self, amount: float) -> None:
        """Charge ``amount`` dollars, after waiting for requests under way if they may leave room for it.

        Raises BudgetError when it would pass the limit all the same.
        """
        with self._settled:
            while not self._charged(amount):
                if not self._in_flight:
                    raise BudgetError(
                        f"the judge has cost ${self.usage.cost:.4f}, and the next question may take that beyond "
                        f"${self.limit}: raise --max-judge-cost; what is answered is kept, and the same command resumes"
                    )
                self._settled.wait()
            self._in_flight += 1

    def settle(self, correction: float, row: Mapping[str, Json]) -> None:
        """End a request that was reserved: correct its charge by so many dollars, and keep ``row``."""
        with self._settled:
            self._in_flight -= 1
            self._settled.notify_all()
            if correction or row:
                with self._exclusive() as file:
                    self._append(file, {**row, "charge": correction})

    def _charged(self, amount: float) -> bool:
        if not amount:
            return True
        with self._exclusive() as file:
            if self.limit is not None and self.usage.cost + amount > self.limit:
                return False
            self._append(file, {"charge": amount})
            return True

    @contextmanager
    def _exclusive(self) -> Iterator[FileIO]:
        """The file with no other process at it, and everything in it known."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._catch_up(file)
                yield file
        except OSError as error:
            raise BenchError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _append(self, file: FileIO, row: Mapping[str, Json]) -> None:
        # Not synced: what is written outlives this process, if not the machine.
        line = json.dumps(row, sort_keys=True).encode("ascii") + b"\n"
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._catch_up(file)

    def _catch_up(self, file: FileIO) -> None:
        file.seek(self._end)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(self._end + whole)  # its writer is dead: we hold the lock
        for line in data[:whole].splitlines():
            self._take(line)
        self._end += whole

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            tokens = row.get("prompt_tokens", 0), row.get("completion_tokens", 0)
            self.usage.cost += row["charge"]
            self.usage.prompt_tokens += tokens[0]
            self.usage.completion_tokens += tokens[1]
            if "question" in row:
                self.replies[row["question"]] = ChatReply(row["text"], *tokens, row["cost"])
                self.usage.replies += 1
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BenchError(f"{self.path} has a damaged line, {line[:60]!r}: delete that line") from error


# A file of replies


@dataclass(frozen=True)
class Replay:
    """Replies from a JSONL file of {"key": ..., "text": ...}, such as an Endpoint's cache; of one key the last counts.

    Prompt and images are not compared: the key alone names the question.
    """

    path: Path
    concurrency: int = field(default=1, init=False)

    def describe(self) -> Mapping[str, Json]:
        return {"kind": "replay", "sha256": hashlib.sha256(self._data).hexdigest()}

    def ask(
        self,
        prompt: str,
        *,
        temperature: float,
        max_tokens: int,
        key: str,
        images: Sequence[bytes] = (),
        system: str | None = None,
        thinking: bool | None = None,
    ) -> ChatReply:
        """As ``ImageChat.ask``. Raises BenchError when the file is absent or is no file of replies."""
        if key not in self._texts:
            raise JudgeError(f"{self.path} has no reply for {key}")
        return ChatReply(self._texts[key], 0, 0, None)

    @cached_property
    def _data(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise BenchError(f"cannot read the judge's replies {self.path}: {error.strerror}") from error

    @cached_property
    def _texts(self) -> Mapping[str, str]:
        texts = {}
        for number, line in enumerate(self._data.split(b"\n"), start=1):
            try:
                row = json.loads(line or b'{"charge": 0}')
                if "key" in row or "charge" not in row:  # an Endpoint's charges are between its replies
                    texts[str(row["key"])] = str(row["text"])
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

    def ask(
        self,
        prompt: str,
        *,
        temperature: float,
        max_tokens: int,
        key: str,
        images: Sequence[bytes] = (),
        system: str | None = None,
        thinking: bool | None = None,
    ) -> ChatReply:
        """As ``ImageChat.ask``. Raises BenchError when the model cannot be loaded, is none that chats, or does not see
        the images that it is asked about."""
        import torch

        model, tokenizer = self._loaded
        tokens = self._tokens(prompt, images, system, thinking).to(model.device)
        length = tokens["input_ids"].shape[1]
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {}
        with torch.inference_mode(), torch.random.fork_rng(devices=[model.device] * (model.device.type == "cuda")):
            torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
            (row,) = model.generate(**tokens, max_new_tokens=max_tokens, **sampling)
        text = tokenizer.decode(row[length:], skip_special_tokens=True)
        if not text.strip():
            raise JudgeError(f"{self.name}: the reply is empty")
        return ChatReply(text, length, len(row) - length, None)

    def _tokens(self, prompt: str, images: Sequence[bytes], system: str | None, thinking: bool | None) -> Any:
        """What the model takes, by its chat template; with images, their pixels too."""
        template = {} if thinking is None else {"enable_thinking": thinking}
        if not images:
            _, tokenizer = self._loaded
            return tokenizer.apply_chat_template(
                messages(prompt, system), add_generation_prompt=True, return_dict=True, return_tensors="pt", **template
            )
        pictures = [{"type": "image", "image": _decoded(image)} for image in images]
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
