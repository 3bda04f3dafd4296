"""Models behind a local OpenAI-compatible server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import runner, store
from benchmarks.endpoint import ChatEndpoint, ImagesEndpoint
from benchmarks.server import BudgetError, Prices, ReplyError, Usage
from benchmarks.types import BenchError, Decoding, Sample
from benchmarks.work import Part, Settings
from tests.fakes import FakeBenchmark
from tests.serving import in_thread

BLUE = Image.new("RGB", (3, 2), "blue")
SHORT = Decoding(max_new_tokens=7)


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Act:
    """How the server treats one request; without a body it does what it is asked for, and status 0 hangs up."""

    status: int = 200
    body: str | None = None


class Server(ThreadingHTTPServer):
    """``acts`` are told by prompt; ``asked`` are all requests, as path and body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.acts: dict[str, list[Act]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str | None] = set()
        self.address = f"http://127.0.0.1:{self.server_port}/v1#tiny/model:1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        self.server.keys.add(self.headers["Authorization"])
        chat = self.path == "/v1/chat/completions"
        prompt = body["messages"][0]["content"][-1]["text"] if chat else body["prompt"]
        acts = self.server.acts.get(prompt)
        act = acts.pop(0) if acts else Act()
        if act.status == 0:
            self.close_connection = True
            return
        made: dict[str, Any] = {"data": [{"b64_json": png(BLUE)}]}
        if chat:
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            made = {"choices": [{"message": {"content": f"re: {prompt}"}}], "usage": usage}
        answer = (json.dumps(made) if act.body is None else act.body).encode()
        self.send_response(act.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serving() -> AbstractContextManager[Server]:
    return in_thread(Server())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    with serving() as server:
        yield server


@pytest.fixture
def charges(tmp_path: Path) -> Path:
    return tmp_path / "charges.jsonl"


def sample(prompt: str, *images: Image.Image, decoding: Decoding = SHORT) -> Sample:
    return Sample(prompt, prompt, prompt, images=tuple(image.copy for image in images), decoding=decoding)


def test_a_question_is_one_message_of_images_and_words(server: Server, charges: Path) -> None:
    assert ChatEndpoint(server.address, charges).answer([sample("what?", BLUE)], [5]) == ["re: what?"]
    ((path, body),) = server.asked
    (message,) = body.pop("messages")
    picture, words = message["content"]
    assert path == "/v1/chat/completions"
    assert server.keys == {"Bearer a key"}
    assert body == {"model": "tiny/model:1", "max_tokens": 7, "temperature": 0.0}
    assert words == {"type": "text", "text": "what?"}
    assert picture["image_url"]["url"] == "data:image/png;base64," + png(BLUE)


def test_a_sampled_reply_is_asked_for_with_the_samples_seed(server: Server, charges: Path) -> None:
    ChatEndpoint(server.address, charges).answer([sample("?", decoding=Decoding(temperature=0.5))], [5])
    assert (server.asked[0][1]["seed"], server.asked[0][1]["temperature"]) == (5, 0.5)


def test_a_reply_ends_at_its_stop_string(server: Server, charges: Path) -> None:
    asked = sample("one\n\ntwo", decoding=Decoding(stop=("\n\n",)))
    assert ChatEndpoint(server.address, charges).answer([asked], [0]) == ["re: one"]


def test_an_image_is_the_one_the_server_sent(server: Server, charges: Path) -> None:
    (drawn,) = ImagesEndpoint(server.address, charges, size=64).generate([sample("a cat")], [1])
    assert isinstance(drawn, Image.Image)
    assert drawn.tobytes() == BLUE.tobytes()
    body = {"model": "tiny/model:1", "prompt": "a cat", "size": "64x64", "response_format": "b64_json"}
    assert server.asked == [("/v1/images/generations", body)]
    ImagesEndpoint(server.address.replace("tiny/model:1", "gpt-image-1"), charges).generate([sample("a cat")], [1])
    assert server.asked[1][1] == {"model": "gpt-image-1", "prompt": "a cat"}


def test_replies_keep_the_order_of_their_questions(server: Server, charges: Path) -> None:
    asked = [sample(f"{i}") for i in range(12)]
    assert ChatEndpoint(server.address, charges).answer(asked, range(12)) == [f"re: {i}" for i in range(12)]
    assert ChatEndpoint(server.address, charges).answer([], []) == []


def test_what_may_pass_is_tried_again(server: Server, charges: Path) -> None:
    server.acts["?"] = [Act(503, "{}")]
    assert ChatEndpoint(server.address, charges, attempts=2).answer([sample("?")], [0]) == ["re: ?"]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "act",
    [
        Act(400, '{"error": {"message": "your prompt was refused", "code": "content_policy_violation"}}'),
        Act(503, "{}"),
        Act(0),
        Act(200, "<html>"),
        Act(200, "[" * 100_000),
        Act(200, '{"choices": [], "data": []}'),
        Act(200, '{"choices": [{"message": {"content": null}}], "data": [{"url": "http://127.0.0.1/x.png"}]}'),
    ],
)
def test_a_request_that_fails_is_that_samples_error(server: Server, act: Act, charges: Path) -> None:
    server.acts = {"bad": [act, act]}
    asked = [sample("good"), sample("bad")]
    good, bad = ChatEndpoint(server.address, charges, attempts=1).answer(asked, [0, 0])
    assert good == "re: good"
    drawn, undrawn = ImagesEndpoint(server.address, charges, attempts=1).generate(asked, [0, 0])
    assert isinstance(drawn, Image.Image)
    assert isinstance(bad, ReplyError)
    assert isinstance(undrawn, ReplyError)


def test_an_image_that_is_none_is_that_samples_error(server: Server, charges: Path) -> None:
    server.acts["bad"] = [Act(200, json.dumps({"data": [{"b64_json": base64.b64encode(b"no image").decode()}]}))]
    (undrawn,) = ImagesEndpoint(server.address, charges).generate([sample("bad")], [0])
    assert "cannot identify image file" in str(undrawn)

    def broken() -> Image.Image:
        raise OSError("image file is truncated")

    (unasked,) = ChatEndpoint(server.address, charges).answer([Sample("a", "?", "a", images=(broken,))], [0])
    assert str(unasked) == "image file is truncated"


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (Act(401, '{"error": {"message": "no"}}'), "set OPENAI_API_KEY to its key"),
        (Act(404, '{"error": {"message": "no"}}'), "give a model that it serves"),
        (Act(429, '{"error": {"message": "no", "code": "insufficient_quota"}}'), "has no credit left"),
    ],
)
def test_what_would_fail_for_every_sample_stops_the_run(server: Server, act: Act, said: str, charges: Path) -> None:
    server.acts["bad"] = [act]
    with pytest.raises(BenchError, match=said):
        ChatEndpoint(server.address, charges, attempts=1).answer([sample("bad")], [0])


def test_replies_that_were_paid_for_are_kept_when_the_server_then_refuses(server: Server, charges: Path) -> None:
    server.acts["bad"] = [Act(401, '{"error": {"message": "no"}}')]
    model = ChatEndpoint(server.address, charges, attempts=1)
    good, bad = model.answer([sample("good"), sample("bad")], [0, 0])
    assert good == "re: good"
    assert isinstance(bad, BenchError)
    server.acts["bad"] = [Act(401, '{"error": {"message": "no"}}')]
    with pytest.raises(BenchError, match="set OPENAI_API_KEY"):  # the next batch stops
        model.answer([sample("bad")], [0])


def test_a_key_that_the_server_repeats_is_in_no_error(server: Server, charges: Path) -> None:
    server.acts["bad"] = [Act(400, '{"error": {"message": "no such key: a key"}}')]
    (refused,) = ChatEndpoint(server.address, charges, attempts=1).answer([sample("bad")], [0])
    assert "no such key: OPENAI_API_KEY" in str(refused)


@pytest.mark.parametrize("address", ["http://me:secret@localhost/v1#m", "http://localhost/v1?key=secret#m"])
def test_an_address_with_a_secret_is_refused(address: str, charges: Path) -> None:
    with pytest.raises(BenchError, match="which the record would keep") as refused:
        ChatEndpoint(address, charges)
    assert "secret" not in str(refused.value)


def test_an_address_that_is_no_url_is_refused(charges: Path) -> None:
    with pytest.raises(BenchError, match="the model's address is no URL"):
        ChatEndpoint("http://[::1/v1#m", charges)


def test_a_server_that_is_not_there_stops_the_run(server: Server, charges: Path) -> None:
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(BenchError, match="no model answers at"):
        ChatEndpoint(address, charges, attempts=1).answer([sample("?")], [0])


@pytest.mark.parametrize("address", ["localhost:8000/v1#m", "http://localhost:8000/v1", "http://localhost:8000/v1#"])
def test_an_address_without_server_or_model_is_refused(address: str, charges: Path) -> None:
    with pytest.raises(BenchError, match="names no server and model"):
        ChatEndpoint(address, charges)


def test_a_refused_image_is_missing_in_the_record_and_drawn_by_the_next_start(
    server: Server, tmp_path: Path, charges: Path
) -> None:
    benchmark = FakeBenchmark(groups=2)
    server.acts["prompt 1"] = [Act(400, '{"error": {"message": "refused"}}')] * 2

    def run() -> list[int]:
        model = ImagesEndpoint(server.address, tmp_path / "model.jsonl", attempts=1)
        records = runner.run(tmp_path, [benchmark], model, Settings(suite="toy"), Part())
        assert records is not None
        assert records[0].model == {
            "name": "tiny/model:1",
            "base_url": server.address.split("#")[0],
            "size": None,
            "seeded": False,
        }
        return [records[0].metrics[0].n, records[0].metrics[0].missing]

    assert run() == [2, 2]
    assert run() == [4, 0]
    assert len(server.asked) == 6


# The budget

#: What the server counts for any reply, 100 and 10 tokens, costs 0.0035 dollars.
PRICES = Prices(prompt=25.0, completion=100.0)
COST = 0.0035
#: "?" with 7 tokens of reply cannot cost more: 1 + 256 prompt tokens.
HIGHEST = 0.007125


def test_no_batch_of_images_is_asked_that_may_pass_the_budget(server: Server, tmp_path: Path) -> None:
    def run(max_cost: float) -> list[int]:
        model = ImagesEndpoint(server.address, tmp_path / "model.jsonl", price=1.0, max_cost=max_cost)
        settings = Settings(suite="toy", batch_size=2)
        records = runner.run(tmp_path, [FakeBenchmark(groups=2)], model, settings, Part())
        assert records is not None
        return [records[0].metrics[0].n, records[0].metrics[0].missing]

    with pytest.raises(BudgetError, match=r"has cost \$2\.0000, and the next 2 requests .*raise --max-model-cost"):
        run(3.5)
    assert len(server.asked) == 2
    assert len(store.read_predictions(tmp_path / "fake")) == 2
    with pytest.raises(BudgetError):  # a restart has no new budget
        run(3.5)
    assert len(server.asked) == 2
    assert run(4.0) == [4, 0]
    assert len(server.asked) == 4


def test_a_budget_is_used_to_its_last_cent(server: Server, charges: Path) -> None:
    model = ImagesEndpoint(server.address, charges, price=0.1, max_cost=0.3)  # 0.1 + 0.1 + 0.1 > 0.3
    drawn = model.generate([sample("a"), sample("b")], [0, 0]) + model.generate([sample("c")], [0])
    assert all(isinstance(image, Image.Image) for image in drawn)
    with pytest.raises(BudgetError):
        model.generate([sample("d")], [0])
    assert len(server.asked) == 3


def test_a_reply_costs_what_the_server_counts(server: Server, charges: Path) -> None:
    model = ChatEndpoint(server.address, charges, PRICES, max_cost=0.02)
    for _ in range(4):
        assert model.answer([sample("?")], [0]) == ["re: ?"]
    with pytest.raises(BudgetError):  # 0.014 + 0.007125 dollars would be too much
        model.answer([sample("?")], [0])
    assert len(server.asked) == 4
    used = model.usage()
    assert replace(used, cost=0.0) == Usage(4, 400, 40)
    assert used.cost == pytest.approx(4 * COST)


def test_a_repetition_that_the_budget_does_not_hold_is_that_samples_error(server: Server, charges: Path) -> None:
    server.acts["?"] = [Act(504, "{}")]  # the model behind the gateway may have gone on
    model = ChatEndpoint(server.address, charges, PRICES, max_cost=1.5 * HIGHEST, attempts=2)
    (error,) = model.answer([sample("?")], [0])
    assert isinstance(error, BudgetError)
    assert len(server.asked) == 1
    assert model.usage().cost == pytest.approx(HIGHEST)


def test_a_refused_request_costs_nothing(server: Server, charges: Path) -> None:
    server.acts["bad"] = [Act(400, '{"error": {"message": "refused"}}')]
    model = ImagesEndpoint(server.address, charges, price=1.0, max_cost=1.0)
    (refused,) = model.generate([sample("bad")], [0])
    assert isinstance(refused, ReplyError)
    assert model.usage().cost == 0.0


def test_a_budget_needs_a_price(server: Server, charges: Path) -> None:
    with pytest.raises(BenchError, match="--max-model-cost needs"):
        ImagesEndpoint(server.address, charges, max_cost=1.0)
