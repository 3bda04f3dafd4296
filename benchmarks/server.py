"""An OpenAI-compatible server and what it may cost: what the judges and the models behind one share.

Requests go through the openai package: addresses, keys, proxies, connections and error classes are its affair.
Its own retries are off, because a request that timed out may be billed and so has to be counted as it happens.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from benchmarks.types import BenchError, Json

if TYPE_CHECKING:
    from io import FileIO

    import openai

T = TypeVar("T")

#: Environment variable with the server's key. Servers of one's own, such as vLLM, take any.
KEY_VARIABLE = "OPENAI_API_KEY"
#: US dollars by which a sum of charges may miss a budget that it fills exactly.
ROUNDING = 1e-9
#: The code of a 429 that no pause mends (platform.openai.com/docs/guides/error-codes).
NO_CREDIT = "insufficient_quota"


class BudgetError(BenchError):
    """What is to be asked next may cost more than is left of the budget."""


class ReplyError(Exception):
    """There is no usable reply to this request."""


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


@dataclass
class Usage:
    """What the requests of a run took so far, those of earlier starts included.

    ``cost`` in US dollars is what was billed at most: a request without a known end counts in full.
    """

    replies: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __str__(self) -> str:
        cost = f", {self.cost:.2f} US dollars at most" if self.cost else ""
        return f"{self.replies} replies, {self.prompt_tokens} + {self.completion_tokens} tokens{cost}"


@dataclass(frozen=True)
class Received(Generic[T]):
    """What a response holds, or why it is of no use. ``cost`` in US dollars is None where the response does not tell;
    ``row`` is kept beside its charge."""

    result: T | ReplyError
    cost: float | None = None
    row: Mapping[str, Json] = field(default_factory=dict)


class Server:
    """A model behind a server, asked within a budget. Threads may share one, and processes its file of charges."""

    def __init__(
        self,
        role: Literal["judge", "model"],
        url: str,
        model: str,
        charges: Path,
        *,
        max_cost: float | None,
        timeout: float,
        attempts: int,
        backoff: float,
    ) -> None:
        """``url`` ends in /v1 as a rule; the key is taken from the environment variable OPENAI_API_KEY.

        ``max_cost`` (US dollars) bounds all that the file ``charges`` has charged, by any process and start.
        ``timeout`` is in seconds without a byte. Of ``attempts`` the n-th is followed by a random pause of up to
        ``backoff`` * 2**(n - 1) seconds, at most 60, to which is added what the server asks for, at most 300.
        Raises BenchError for a malformed ``url``, and for one that holds a secret, since the record keeps it.
        """
        import openai
        import tenacity

        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise BenchError(
                f"the {role}'s address is no URL ({error}): give one such as http://localhost:8000/v1"
            ) from error
        if "@" in parts.netloc or parts.query:
            raise BenchError(
                f"the {role}'s address holds a password or a query, which the record would keep: give the address "
                f"alone, and set {KEY_VARIABLE} to the key"
            )
        self.role = role
        self.url = url.rstrip("/")
        self.model = model
        self.ledger = Ledger(charges, max_cost, role)
        self._client = openai.OpenAI(
            base_url=self.url,
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

    def ask(self, send: Callable[[openai.OpenAI], str], read: Callable[[str], Received[T]], highest: float) -> T:
        """What ``read`` makes of the body that ``send`` gets, which costs ``highest`` US dollars at most.

        Raises ReplyError when there is no usable reply to this request, BudgetError before one that could pass
        ``max_cost``, and BenchError when the server would refuse every request.
        """
        import openai

        try:
            answered: T = self._retrying(self._attempt, send, read, highest)
            return answered
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APIConnectionError as error:
            if unreachable(error):
                raise BenchError(
                    f"no {self.role} answers at {self.url}: start it, or correct its address; "
                    "what is answered is kept, and the same command resumes"
                ) from error
            raise ReplyError(f"{self.model}: {brief(error)}") from error
        except UnicodeEncodeError as error:  # half a surrogate pair
            raise ReplyError(f"the prompt is no text that can be sent: {brief(error)}") from error

    def _attempt(self, send: Callable[[openai.OpenAI], str], read: Callable[[str], Received[T]], highest: float) -> T:
        """One request, charged at its ``highest`` price until its end is known."""
        import openai

        self.ledger.reserve(highest)
        correction = 0.0  # a request without a known end, such as one that timed out, stays charged
        row: Mapping[str, Json] = {}
        try:
            received = read(send(self._client))
            correction = 0.0 if received.cost is None else received.cost - highest
            row = received.row
        except openai.APIError as error:
            if _unbilled(error):
                correction = -highest
            raise
        except UnicodeEncodeError:
            correction = -highest
            raise
        finally:
            self.ledger.settle(correction, row)
        if isinstance(received.result, ReplyError):
            raise received.result
        return received.result

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        """A user's error where the server would refuse every request, a missing reply where it refuses this one."""
        # Some servers repeat the key that they refuse, and what is said may go into the record.
        answered = brief(error).replace(os.environ.get(KEY_VARIABLE) or "\0", KEY_VARIABLE)
        said = f"the {self.role} {self.model} at {self.url} answered {answered}"
        if error.status_code == 401:
            return BenchError(f"{said}: set {KEY_VARIABLE} to its key")
        if error.status_code == 402 or error.code == NO_CREDIT:
            return BenchError(f"{said}: its account has no credit left")
        if error.status_code == 404:
            return BenchError(f"{said}: give a model that it serves and its base URL, such as http://localhost:8000/v1")
        return ReplyError(said)


def read_completion(body: str) -> tuple[str | None, int, int]:
    """The text in a chat completion, if any, and the tokens of prompt and reply, 0 where the server counts none.

    Raises ReplyError for anything else.
    """
    try:
        completion = json.loads(body)
        text = completion["choices"][0]["message"]["content"]
        usage = completion.get("usage") or {"prompt_tokens": 0, "completion_tokens": 0}
        tokens = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ReplyError(f"the server sent no chat completion but {body[:80]!r}") from error
    return None if text is None else str(text), *tokens


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer in time, a broken connection, 408, 409, 429, 5xx."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return (error.status_code in (408, 409, 429) or error.status_code >= 500) and error.code != NO_CREDIT
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
    """Whether nothing listens there, in contrast to a server that broke off over one request."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return True
        error = error.__cause__ or error.__context__
    return False


def brief(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


class Ledger:
    """Charges, and what was received for them, in one append-only JSONL file that threads and processes share.

    The sum of all ``charge`` is what was billed at most: a request is charged at its highest price before it is
    sent, and corrected when its end is known. So a killed process hides no cost, and nobody has to tidy up after it.
    A line with a ``key`` is a reply. One with a ``question`` has its ``text`` too and is kept in ``replies``, as text,
    tokens of prompt and reply, and cost.
    """

    def __init__(self, path: Path, limit: float | None, role: Literal["judge", "model"]) -> None:
        """Raises BenchError when the file cannot be written or is damaged."""
        self.path = path
        self.limit = limit
        self.role = role
        self.replies: dict[str, tuple[str, int, int, float | None]] = {}
        self._usage = Usage()
        self._end = 0  # bytes read so far
        self._in_flight = 0
        self._settled = threading.Condition()
        with self._exclusive():
            pass

    def usage(self) -> Usage:
        return replace(self._usage)

    def require(self, amounts: Sequence[float]) -> None:
        """Raise BudgetError where requests of so many dollars each may together pass the limit."""
        with self._settled, self._exclusive():
            if self._beyond(math.fsum(amounts)):
                raise self._exhausted(f"{len(amounts)} requests" if len(amounts) > 1 else "request")

    def reserve(self, amount: float) -> None:
        """Charge ``amount`` dollars, after waiting for requests under way if they may leave room for it.

        Raises BudgetError when it would pass the limit all the same.
        """
        with self._settled:
            while not self._charged(amount):
                if not self._in_flight:
                    raise self._exhausted("request")
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

    def _beyond(self, amount: float) -> bool:
        # Three times 0.1 is more than 0.3 in binary fractions.
        return self.limit is not None and self._usage.cost + amount > self.limit + ROUNDING

    def _exhausted(self, following: str) -> BudgetError:
        return BudgetError(
            f"the {self.role} has cost ${self._usage.cost:.4f}, and the next {following} may take that beyond "
            f"${self.limit}: raise --max-{self.role}-cost; what is answered is kept, and the same command resumes"
        )

    def _charged(self, amount: float) -> bool:
        if not amount:
            return True
        with self._exclusive() as file:
            if self._beyond(amount):
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
            self._usage.cost += row["charge"]
            self._usage.prompt_tokens += tokens[0]
            self._usage.completion_tokens += tokens[1]
            self._usage.replies += "key" in row
            if "question" in row:
                self.replies[row["question"]] = (row["text"], *tokens, row["cost"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BenchError(f"{self.path} has a damaged line, {line[:60]!r}: delete that line") from error
