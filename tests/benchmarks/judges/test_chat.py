"""The judges that answer prompts, against a server on this machine that misbehaves on demand."""

from __future__ import annotations

import base64
import io
import json
import random
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.judges.chat import (
    Chat,
    ChatReply,
    Endpoint,
    LocalModel,
    Question,
    Replay,
    ask_many,
    at_once,
    data_url,
    image_tokens,
)
from benchmarks.server import BudgetError, Prices, Usage
from benchmarks.types import BenchError, JudgeError
from tests.serving import in_thread

ROOT = Path(__file__).resolve().parents[3]
PRICES = Prices(prompt=25.0, completion=100.0)
#: 100 prompt and 10 completion tokens at these prices: what the server takes for any reply.
COST = 0.0035
#: "2 + 2?" with 128 tokens of reply cannot cost more: 6 + 256 prompt tokens.
HIGHEST = 0.01935


def completion(text: str | None, tokens: tuple[int, int] | None = (100, 10)) -> bytes:
    body: dict[str, Any] = {"object": "chat.completion", "choices": [{"message": {"content": text}}]}
    if tokens:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return json.dumps(body).encode()


def near(cost: float) -> Any:
    return pytest.approx(cost, abs=1e-12)


@dataclass(frozen=True)
class Act:
    """How the server treats one request. Without a body it answers "re: <prompt>"; status 0 hangs up."""

    status: int = 200
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0


class Server(ThreadingHTTPServer):
    """``script`` is used up by the first requests; ``usual`` serves the rest. ``asked`` are all requests' bodies,
    ``most`` is how many it had to answer at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Act] = []
        self.usual = Act()
        self.asked: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.answering = self.most = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that no longer waits is no error of the server's."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.authorizations.append(self.headers["Authorization"])
            act = self.server.script.pop(0) if self.server.script else self.server.usual
            self.server.answering += 1
            self.server.most = max(self.server.most, self.server.answering)
        time.sleep(act.seconds)
        with self.server.lock:
            self.server.answering -= 1
        if act.status == 0:
            self.close_connection = True
            return
        if self.path != "/v1/chat/completions":
            act = Act(404, b'{"error": {"message": "Not Found"}}')
        answer = act.body if act.body is not None else completion("re: " + body["messages"][0]["content"])
        self.send_response(act.status)
        for name, value in (("Content-Type", "application/json"), *act.headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with in_thread(Server()) as server:
        yield server


@dataclass(frozen=True)
class Setup:
    """Makes endpoints on the server and one cache; nothing pauses for long."""

    server: Server
    cache: Path

    def endpoint(
        self,
        *,
        url: str | None = None,
        model: str = "judge",
        prices: Prices | None = PRICES,
        max_cost: float | None = None,
        timeout: float = 5.0,
        attempts: int = 3,
        concurrency: int = 16,
    ) -> Endpoint:
        return Endpoint(
            url or self.server.url,
            model,
            self.cache,
            prices=prices,
            max_cost=max_cost,
            concurrency=concurrency,
            timeout=timeout,
            attempts=attempts,
            backoff=0.01,
        )


@pytest.fixture
def setup(server: Server, tmp_path: Path) -> Setup:
    return Setup(server, tmp_path / "judge" / "replies.jsonl")


def ask(chat: Chat, prompt: str = "2 + 2?", key: str = "q/1") -> ChatReply:
    return chat.ask(Question(prompt, 0.0, 128, key))


def questions(count: int) -> list[Question]:
    return [Question(f"question {number}", 0.0, 128, f"q/{number}") for number in range(count)]


# A reply


def test_a_reply_has_its_tokens_and_cost(setup: Setup) -> None:
    endpoint = setup.endpoint()
    assert ask(endpoint) == ChatReply("re: 2 + 2?", 100, 10, near(COST))
    assert endpoint.usage() == Usage(1, 100, 10, near(COST))


def test_without_prices_there_is_no_cost(setup: Setup) -> None:
    assert ask(setup.endpoint(prices=None)).cost is None


def test_the_request_is_one_user_message(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    ask(setup.endpoint(url=setup.server.url + "/"))
    assert setup.server.asked == [
        {
            "model": "judge",
            "messages": [{"role": "user", "content": "2 + 2?"}],
            "temperature": 0.0,
            "max_tokens": 128,
        }
    ]
    assert setup.server.authorizations == ["Bearer sk-secret"]
    assert "sk-secret" not in setup.cache.read_text()


def test_a_server_of_ones_own_needs_no_key(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask(setup.endpoint())
    assert setup.server.authorizations == ["Bearer EMPTY"]


# The cache


def test_what_was_answered_is_not_asked_again(setup: Setup) -> None:
    first = ask(setup.endpoint())
    again = setup.endpoint()
    assert ask(again) == first
    assert len(setup.server.asked) == 1
    assert again.usage() == Usage(1, 100, 10, near(COST))


def test_everything_that_determines_a_reply_is_part_of_its_name(setup: Setup) -> None:
    endpoint = setup.endpoint()
    ask(endpoint)
    ask(endpoint, prompt="3 + 3?")
    ask(endpoint, key="q/1/run2")
    endpoint.ask(Question("2 + 2?", 0.5, 128, "q/1"))
    endpoint.ask(Question("2 + 2?", 0.0, 64, "q/1"))
    ask(setup.endpoint(model="other"))
    ask(setup.endpoint(url=setup.server.url.replace("127.0.0.1", "localhost")))
    assert len(setup.server.asked) == 7


def test_processes_see_each_others_replies_at_their_next_request(setup: Setup) -> None:
    one, two = setup.endpoint(), setup.endpoint()
    ask(one, key="q/1")
    ask(two, key="q/2")
    ask(two, key="q/1")
    assert len(setup.server.asked) == 2


def test_a_torn_last_line_is_no_reply_and_spoils_no_other(setup: Setup) -> None:
    ask(setup.endpoint(), key="q/1")
    whole = setup.cache.read_bytes()
    setup.cache.write_bytes(whole + whole.splitlines()[-1][:40])
    ask(setup.endpoint(), key="q/2")
    assert ask(setup.endpoint(), key="q/1") == ask(setup.endpoint(), key="q/1")
    assert len(setup.server.asked) == 2


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "no charge"}', '{"charge": "1"}'])
def test_a_damaged_line_is_named(setup: Setup, line: str) -> None:
    setup.cache.parent.mkdir()
    setup.cache.write_text(line + "\n")
    with pytest.raises(BenchError, match=r"replies\.jsonl has a damaged line"):
        setup.endpoint()


def test_a_cache_that_cannot_be_written_is_a_users_error(setup: Setup) -> None:
    setup.cache.mkdir(parents=True)
    with pytest.raises(BenchError, match="cannot write"):
        setup.endpoint()


def test_after_a_kill_nothing_stored_is_asked_again_and_no_cost_is_hidden(setup: Setup) -> None:
    setup.server.usual = Act(seconds=0.02)
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from benchmarks.judges.chat import Endpoint, Question, ask_many
        from benchmarks.server import Prices

        endpoint = Endpoint(sys.argv[1], "judge", Path(sys.argv[2]), prices=Prices(25.0, 100.0), concurrency=4)
        ask_many(endpoint, [Question(f"question {n}", 0.0, 128, f"q/{n}") for n in range(400)])
    """)
    process = subprocess.Popen([sys.executable, "-c", program, setup.server.url, str(setup.cache)], cwd=ROOT)
    while len(setup.server.asked) < 40:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    time.sleep(0.1)  # the server ends what it was asked
    stored = {json.loads(line).get("key") for line in setup.cache.read_bytes().split(b"\n")[:-1]} - {None}
    assert len(stored) >= 30
    endpoint = setup.endpoint()
    ask_many(endpoint, questions(400))
    asked = Counter(setup.server.prompts())
    assert len(asked) == 400
    twice = {prompt for prompt, count in asked.items() if count > 1}
    assert len(twice) <= 4  # under way when the process died
    assert not twice & {key.replace("q/", "question ") for key in stored}
    assert endpoint.usage().cost >= len(setup.server.asked) * COST - 1e-9


# A server that fails


@pytest.mark.parametrize(
    "failure",
    [Act(500), Act(503), Act(429), Act(408), Act(status=0), Act(seconds=0.6)],
    ids=["500", "503", "429", "408", "hangs up", "slow"],
)
def test_what_may_pass_is_tried_again(setup: Setup, failure: Act) -> None:
    setup.server.script = [failure, failure]
    assert ask(setup.endpoint(timeout=0.2)).text == "re: 2 + 2?"
    assert len(setup.server.asked) == 3


@pytest.mark.parametrize(
    ("failure", "reason", "requests"),
    [
        (Act(500, b'{"error": {"message": "out of order"}}'), "out of order", 3),
        (Act(429), "429", 3),
        (Act(seconds=0.6), "timed out", 3),
        (Act(status=0), "Connection error", 3),
        (Act(400, b'{"error": {"message": "too long"}}'), "too long", 1),
        (Act(403), "403", 1),
        (Act(body=b"<html>Welcome</html>"), "no chat completion but '<html>Welcome", 1),
        (Act(body=b"[]"), "no chat completion", 1),
        (Act(body=b'{"choices": []}'), "no chat completion", 1),
        (Act(body=b'{"choices": null}'), "no chat completion", 1),
        (Act(body=completion(None)), "the reply is empty", 1),
        (Act(body=completion(" \n")), "the reply is empty", 1),
    ],
)
def test_a_question_without_a_reply_is_a_judge_error_and_is_asked_next_time(
    setup: Setup, failure: Act, reason: str, requests: int
) -> None:
    setup.server.usual = failure
    with pytest.raises(JudgeError, match=reason):
        ask(setup.endpoint(timeout=0.2))
    assert len(setup.server.asked) == requests
    setup.server.usual = Act()
    assert ask(setup.endpoint()).text == "re: 2 + 2?"


def test_a_prompt_that_is_no_text_is_a_judge_error(setup: Setup) -> None:
    with pytest.raises(JudgeError, match="no text that can be sent"):
        ask(setup.endpoint(), prompt="half a pair: \ud800")
    assert setup.server.asked == []


def test_a_slow_reply_within_the_time_is_a_reply(setup: Setup) -> None:
    setup.server.usual = Act(seconds=0.4)
    assert ask(setup.endpoint(timeout=2.0)).text == "re: 2 + 2?"
    assert len(setup.server.asked) == 1


def test_the_pause_is_what_the_server_asks_for(setup: Setup) -> None:
    setup.server.script = [Act(429, headers=(("Retry-After", "1"),))]
    start = time.monotonic()
    ask(setup.endpoint())
    assert 1.0 <= time.monotonic() - start < 2.0


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2015 07:28:00 GMT", "-1", "soon"])
def test_a_pause_in_other_words_is_ours(setup: Setup, asked: str) -> None:
    setup.server.script = [Act(429, headers=(("Retry-After", asked),))]
    assert ask(setup.endpoint()).text == "re: 2 + 2?"


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (401, b'{"error": {"message": "no such key"}}', "no such key.*set OPENAI_API_KEY"),
        (402, b"{}", "no credit left"),
        (429, b'{"error": {"code": "insufficient_quota", "message": "quota"}}', "no credit left"),
        (404, b'{"error": {"message": "no such model"}}', "no such model.*a model that it serves and its base URL"),
    ],
)
def test_what_every_question_would_meet_is_a_users_error_at_once(
    setup: Setup, status: int, body: bytes, advice: str
) -> None:
    setup.server.usual = Act(status, body)
    with pytest.raises(BenchError, match=advice):
        ask(setup.endpoint())
    assert len(setup.server.asked) == 1


def test_an_address_without_v1_is_a_users_error(setup: Setup) -> None:
    with pytest.raises(BenchError, match="base URL, such as http://localhost:8000/v1"):
        ask(setup.endpoint(url=setup.server.url.removesuffix("/v1")))


def test_an_address_that_is_no_url_is_a_users_error(setup: Setup) -> None:
    with pytest.raises(BenchError, match="'localhost:8000/v1' is no URL"):
        setup.endpoint(url="localhost:8000/v1")


def test_where_nothing_listens_is_a_users_error_and_costs_nothing(setup: Setup) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        endpoint = setup.endpoint(url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(BenchError, match=r"no judge answers at http://127\.0\.0\.1.*start it"):
            ask(endpoint)
    assert endpoint.usage().cost == near(0.0)


# Images


def picture(size: tuple[int, int] = (8, 8), kind: str = "PNG", color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


def look(endpoint: Endpoint, *images: bytes, system: str | None = None, thinking: bool | None = None) -> ChatReply:
    return endpoint.ask(Question("What is it?", 0.0, 128, "q/1", images, system, thinking))


@pytest.fixture
def seeing(setup: Setup) -> Setup:
    """The server replies the same to all; its usual answer repeats a prompt of text."""
    setup.server.usual = Act(body=completion("a red square"))
    return setup


def test_images_stand_behind_the_prompt_as_what_they_are(seeing: Setup) -> None:
    png, jpeg = picture(), picture(kind="JPEG")
    look(seeing.endpoint(), png, jpeg, system="You see.", thinking=False)
    urls = [
        f"data:image/png;base64,{base64.b64encode(png).decode()}",
        f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}",
    ]
    assert seeing.server.asked == [
        {
            "model": "judge",
            "messages": [
                {"role": "system", "content": "You see."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": urls[0]}},
                        {"type": "image_url", "image_url": {"url": urls[1]}},
                    ],
                },
            ],
            "temperature": 0.0,
            "max_tokens": 128,
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]


def test_images_system_message_and_thinking_are_part_of_a_questions_name(seeing: Setup) -> None:
    endpoint, red, blue = seeing.endpoint(), picture(), picture(color="blue")
    look(endpoint, red)
    look(endpoint, red)
    look(endpoint, blue)
    look(endpoint, red, blue)
    look(endpoint, blue, red)
    look(endpoint)
    look(endpoint, red, system="You see.")
    look(endpoint, red, thinking=False)
    look(endpoint, red, thinking=True)
    assert len(seeing.server.asked) == 8
    assert "base64" not in seeing.cache.read_text()


def test_what_is_no_image_is_a_judge_error_and_costs_nothing(seeing: Setup) -> None:
    endpoint = seeing.endpoint()
    for data in (b"", b"<html>", picture()[:20]):
        with pytest.raises(JudgeError, match="is no image"):
            look(endpoint, data)
    assert seeing.server.asked == []
    assert endpoint.usage().cost == near(0.0)


def test_the_media_type_is_the_images_own() -> None:
    assert data_url(picture(kind="WEBP")).startswith("data:image/webp;base64,")
    file = io.BytesIO()
    Image.new("F", (8, 8)).save(file, "SPIDER")  # a format that no browser shows
    with pytest.raises(JudgeError, match="the format SPIDER has no media type"):
        data_url(file.getvalue())


@pytest.mark.parametrize(
    ("size", "tiles"), [((1024, 1024), 4), ((64, 64), 4), ((512, 512), 4), ((2048, 4096), 32), ((3000, 200), 46)]
)
def test_an_image_is_counted_by_the_larger_of_its_tiles(size: tuple[int, int], tiles: int) -> None:
    """Scaled as OpenAI's guide says (1024 x 1024 makes four), or not at all."""
    assert image_tokens(picture(size)) == 2833 + 5667 * tiles


def test_the_budget_counts_images(seeing: Setup) -> None:
    seeing.server.usual = Act(body=completion("a red square", tokens=None))
    highest = PRICES.cost(len("You see.") + len("What is it?") + 256 + 2 * image_tokens(picture()), 128)
    endpoint = seeing.endpoint(max_cost=highest * 1.5)
    assert look(endpoint, picture(), picture(), system="You see.").cost == near(highest)
    with pytest.raises(BudgetError):
        look(endpoint, picture(color="blue"), picture(), system="You see.")
    assert len(seeing.server.asked) == 1


def test_a_replay_needs_no_images(seeing: Setup) -> None:
    look(seeing.endpoint(), picture())
    replay = Replay(seeing.cache)
    again = replay.ask(Question("What is it?", 0.0, 128, "q/1", [picture()], "You see."))
    assert again.text == "a red square"


# Many questions


def test_at_once_keeps_order_and_runs_so_many_at_a_time() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def reply(number: int) -> ChatReply:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        if number == 5:
            raise JudgeError("no")
        return ChatReply(str(number), 0, 0, None)

    replies = at_once([partial(reply, number) for number in range(12)], concurrency=3)
    texts = [one.text if isinstance(one, ChatReply) else "failed" for one in replies]
    assert texts == ["0", "1", "2", "3", "4", "failed", "6", "7", "8", "9", "10", "11"]
    assert most == 3


def test_replies_come_in_the_order_of_the_questions_and_failures_stay_apart(setup: Setup) -> None:
    setup.server.usual = Act(seconds=0.01)
    setup.server.script = [Act(400, b'{"error": {"message": "refused"}}')]
    asked = questions(40)
    random.Random(0).shuffle(asked)
    replies = ask_many(setup.endpoint(), asked)
    (failed,) = [number for number, reply in enumerate(replies) if isinstance(reply, JudgeError)]
    texts = [reply.text if isinstance(reply, ChatReply) else "" for reply in replies]
    assert texts == ["" if n == failed else f"re: {question.prompt}" for n, question in enumerate(asked)]


def test_a_users_error_stops_the_questions_that_wait(setup: Setup) -> None:
    setup.server.usual = Act(401, seconds=0.02)
    with pytest.raises(BenchError, match="OPENAI_API_KEY"):
        ask_many(setup.endpoint(concurrency=2), questions(100))
    assert len(setup.server.asked) < 10


def test_the_server_is_asked_many_questions_at_once_and_no_more_than_it_shall_be(setup: Setup) -> None:
    setup.server.usual = Act(seconds=0.2)
    ask_many(setup.endpoint(concurrency=16), questions(64))
    assert len(setup.server.asked) == 64
    assert 4 <= setup.server.most <= 16  # a busy machine does not get to 16 within the server's time


# The budget


def test_the_budget_is_never_passed_and_the_error_says_how_to_go_on(setup: Setup) -> None:
    limit = 0.1
    endpoint = setup.endpoint(max_cost=limit)
    with pytest.raises(BudgetError, match=r"has cost \$0\.0[89]\d\d, .*beyond \$0\.1: raise --max-judge-cost"):
        ask_many(endpoint, questions(100))
    asked = len(setup.server.asked)
    assert endpoint.usage().cost == near(asked * COST)
    assert limit - HIGHEST - 0.001 < asked * COST <= limit  # "question 99" is longer than "2 + 2?"

    with pytest.raises(BudgetError):  # a restart has no new budget
        ask_many(setup.endpoint(max_cost=limit), questions(100))
    assert len(setup.server.asked) == asked

    assert len(ask_many(setup.endpoint(max_cost=1.0), questions(100))) == 100
    assert len(setup.server.asked) == 100


def test_processes_share_one_budget(setup: Setup) -> None:
    setup.server.usual = Act(seconds=0.005)

    def spend(first: int) -> None:
        asked = [Question("?", 0.0, 128, f"q/{first + number}") for number in range(50)]
        with pytest.raises(BudgetError):
            ask_many(setup.endpoint(max_cost=0.2, concurrency=2), asked)

    threads = [threading.Thread(target=spend, args=(100 * number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.1 < len(setup.server.asked) * COST <= 0.2


def test_a_request_that_timed_out_may_be_billed_and_counts_in_full(setup: Setup) -> None:
    setup.server.script = [Act(seconds=0.6)]
    endpoint = setup.endpoint(timeout=0.2)
    ask(endpoint)
    assert endpoint.usage().cost == near(HIGHEST + COST)


def test_a_refused_request_costs_nothing(setup: Setup) -> None:
    setup.server.script = [Act(500), Act(429)]
    endpoint = setup.endpoint()
    ask(endpoint)
    assert endpoint.usage().cost == pytest.approx(COST)


def test_an_empty_reply_costs_what_it_took(setup: Setup) -> None:
    setup.server.usual = Act(body=completion(""))
    endpoint = setup.endpoint()
    with pytest.raises(JudgeError):
        ask(endpoint)
    assert endpoint.usage() == Usage(0, 100, 10, near(COST))


def test_a_server_that_does_not_count_is_paid_in_full(setup: Setup) -> None:
    setup.server.usual = Act(body=completion("4", tokens=None))
    endpoint = setup.endpoint()
    assert ask(endpoint) == ChatReply("4", 0, 0, near(HIGHEST))
    assert endpoint.usage().cost == near(HIGHEST)


def test_a_budget_needs_prices(setup: Setup) -> None:
    with pytest.raises(BenchError, match="--max-judge-cost needs the judge's prices"):
        setup.endpoint(prices=None, max_cost=1.0)


# Replies from a file


def test_replay_reads_replies_by_key(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text(
        '{"key": "q/1", "text": "0.5"}\n{"key": "q/2", "text": ""}\n{"key": "q/1", "text": "1.0"}\n'
        '{"key": "q/4", "text": null}\n{"key": "q/5", "text": 0}\n'
    )
    replay = Replay(path)
    assert ask(replay) == ChatReply("1.0", 0, 0, None)
    assert ask(replay, key="q/5").text == "0"
    for key in ("q/2", "q/3", "q/4"):  # empty, absent and null
        with pytest.raises(JudgeError, match=rf"replies\.jsonl has no reply for {key}"):
            ask(replay, key=key)
    described = replay.describe()
    path.write_text('{"key": "q/1", "text": "0.0"}\n')
    assert Replay(path).describe() != described


def test_an_endpoints_cache_can_be_replayed(setup: Setup) -> None:
    setup.server.script = [Act(seconds=0.6), Act(body=completion(""))]
    endpoint = setup.endpoint(timeout=0.2)
    with pytest.raises(JudgeError):
        ask(endpoint, key="q/empty")
    replies = ask_many(endpoint, questions(5))
    again = ask_many(Replay(setup.cache), questions(5))
    assert [r.text for r in again if isinstance(r, ChatReply)] == [r.text for r in replies if isinstance(r, ChatReply)]
    assert len(setup.server.asked) == 7


@pytest.mark.parametrize("line", ["{", "[]", '"key"', '{"text": "a"}', '{"key": "q/1"}'])
def test_a_line_that_is_no_reply_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text(f'{{"key": "q/1", "text": "a"}}\n{line}\n')
    with pytest.raises(BenchError, match="line 2 is no reply"):
        ask(Replay(path))


def test_a_missing_file_of_replies_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read the judge's replies"):
        ask(Replay(tmp_path / "none.jsonl"))


# A model on this machine

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's vision-language backbone with a chat template."""
    folder = tmp_path_factory.mktemp("judges") / "vlm"
    shutil.copytree(ROOT / "model" / "toy" / "backbone", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def causal(vlm: Path) -> Path:
    """A random Llama of a few thousand parameters with the same tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = vlm.with_name("causal")
    tokenizer = AutoTokenizer.from_pretrained(vlm)
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["vlm", "causal"])
def test_a_local_model_answers_greedily_at_temperature_zero(request: pytest.FixtureRequest, kind: str) -> None:
    folder: Path = request.getfixturevalue(kind)
    judge = LocalModel(folder, kind)
    replies = [judge.ask(Question("red circle", 0.0, 8, key)) for key in ("q/1", "q/2")]
    assert replies[0] == replies[1]
    assert replies[0].prompt_tokens > 2
    assert 1 <= replies[0].completion_tokens <= 8
    assert replies[0].cost is None


def test_a_local_models_draws_depend_on_the_key_alone(causal: Path) -> None:
    import torch

    judge = LocalModel(causal, "causal")

    def draw(key: str) -> str:
        return judge.ask(Question("red circle", 1.0, 8, key)).text

    state = torch.get_rng_state()
    first = draw("q/1")
    assert torch.equal(torch.get_rng_state(), state)
    assert len({first, draw("q/2"), draw("q/3")}) > 1
    assert draw("q/1") == first


def test_every_file_of_a_local_model_is_in_its_description(causal: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(causal, tmp_path / "copy")
    described = LocalModel(causal, "judge").describe()
    assert LocalModel(folder, "judge").describe() == described
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert LocalModel(folder, "judge").describe() != described


def test_a_model_that_does_not_chat_is_a_users_error() -> None:
    with pytest.raises(BenchError, match="has no chat template: choose an instruction-tuned model"):
        ask(LocalModel(ROOT / "model" / "toy" / "backbone", "toy"))


def test_a_model_that_is_not_there_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot load the judge owner/name"):
        ask(LocalModel(tmp_path, "owner/name"))


#: Places images as Qwen2.5-VL's template does, and has Qwen3's switch.
SEEING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}no thoughts{% endif %}"
)


def test_a_local_model_sees_images(vlm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vlm, tmp_path / "seeing")
    (folder / "chat_template.jinja").write_text(SEEING)
    judge = LocalModel(folder, "toy")

    def tokens(*images: bytes, system: str | None = None, thinking: bool | None = None) -> int:
        return int(judge._tokens(Question("color", 0.0, 4, "q/1", images, system, thinking))["input_ids"].shape[1])

    red, blue = picture((64, 64)), picture((64, 64), color="blue")
    one = tokens(red)
    assert tokens(red, blue) - one > 2  # more than what stands around an image
    assert tokens(red, system="You see.") > one
    assert tokens(red, thinking=False) > one
    assert tokens(red, thinking=True) == one
    pixels = [judge._tokens(Question("color", 0.0, 4, "q/1", [image]))["pixel_values"] for image in (red, blue)]
    assert not pixels[0].equal(pixels[1])
    with pytest.raises(JudgeError, match="is no image"):
        judge.ask(Question("color", 0.0, 4, "q/1", [b"<html>"]))


def test_a_local_model_without_eyes_is_a_users_error(causal: Path) -> None:
    with pytest.raises(BenchError, match="the judge causal sees no images: choose a vision-language model"):
        LocalModel(causal, "causal").ask(Question("color", 0.0, 4, "q/1", [picture()]))
