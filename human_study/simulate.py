"""Annotators with known preferences, who do a study over the protocol that the browser speaks.

They see what an annotator's browser is sent and nothing else: they tell the images apart by the bytes they fetch. So
a study that they did must, analysed, return the preference they were given.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from benchmarks.types import BenchError, Json
from human_study.design import Choice
from human_study.store import Store
from human_study.tables import ImageRow, Prompt

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

#: Seconds that a page may take.
TIMEOUT = 60.0


@dataclass(frozen=True)
class Preferences:
    """How a simulated annotator chooses, after Davidson (1970, J. Am. Stat. Assoc. 65:317) with an order effect.

    With strengths exp(``quality``) of the images, the left one's times exp(``left_bias``), and ties in proportion
    ``ties`` to the geometric mean of both; with probability ``noise`` the choice is any of the three instead.
    """

    quality: Mapping[tuple[str | None, str], float]  # by the prompt, None where it is not shown, and the image's digest
    ties: float = 0.0
    left_bias: float = 0.0
    noise: float = 0.0

    def choose(self, prompt: str | None, left: str, right: str, rng: random.Random) -> Choice:
        """A choice between two images, told by their digests."""
        choices: tuple[Choice, Choice, Choice] = ("left", "right", "tie")
        if rng.random() < self.noise:
            return rng.choice(choices if self.ties else choices[:2])
        first, second = self.quality[prompt, left] + self.left_bias, self.quality[prompt, right]
        weights = math.exp(first), math.exp(second), self.ties * math.exp((first + second) / 2)
        return rng.choices(choices, weights)[0]


def quality(store: Store, models: Mapping[str, float], worse: float = -20.0) -> dict[tuple[str | None, str], float]:
    """The quality of every image of a study: its model's, and ``worse`` for what is the worse image of gold."""
    statement = select(Prompt.text, ImageRow.sha256, ImageRow.model, ImageRow.criterion).join(
        Prompt, ImageRow.prompt_id == Prompt.id
    )
    with store.reading() as connection:
        rows = connection.execute(statement.where(Prompt.study_id == store.id).order_by(ImageRow.id)).all()
    known: dict[tuple[str | None, str], float] = {}
    for row in rows:
        value = worse if row.criterion else models[row.model]
        known[row.text, row.sha256] = value
        # Without a prompt, another prompt's image is as good as any.
        known.setdefault((None, row.sha256), value)
    return known


class Tab:
    """One browser tab that is signed in. What the page shows stands in ``pair`` and ``buttons`` after every run."""

    def __init__(self, url: str, cookie: str, socket: ClientConnection) -> None:
        self.url = url
        self.cookie = cookie
        self.pair: dict[str, Json] | None = None
        self.pair_widget = ""
        self.buttons: dict[str, str] = {}
        self.received: list[bytes] = []
        self._seen: dict[str, str] = {}
        self._socket = socket
        self.run()

    def run(self) -> None:
        """Run the page's script as at loading."""
        self._send(None)
        self.read()

    def press(self, label: str) -> None:
        """Press one of Streamlit's buttons."""
        from streamlit.proto.WidgetStates_pb2 import WidgetState

        self._send(WidgetState(id=self.buttons[label], trigger_value=True))
        self.read()

    def choose(self, choice: str, ms: int = 1000) -> None:
        """Choose on the pair page."""
        self.send_choice(choice, ms)
        self.read()

    def send_choice(self, choice: str, ms: int = 1000, change: Mapping[str, Json] | None = None) -> None:
        """Send a choice and leave the answer unread; ``change`` is for messages that no page sends."""
        from streamlit.proto.WidgetStates_pb2 import WidgetState

        assert self.pair is not None
        value = {
            "assignment": self.pair["assignment"],
            "submit_uuid": self.pair["submit_uuid"],
            "choice": choice,
            "ms_total": ms,
            "ms_visible": ms,
            "page": {},
            **(change or {}),
        }
        # The name under which the browser reports a component's events (streamlit.components.v2.bidi_component).
        events = f"$$STREAMLIT_INTERNAL_KEY_{self.pair_widget}__events"
        self._send(WidgetState(id=events, json_trigger_value=json.dumps([{"event": "choice", "value": value}])))

    def _send(self, widget: Any) -> None:
        from streamlit.proto.BackMsg_pb2 import BackMsg

        message = BackMsg()
        message.rerun_script.query_string = ""
        if widget is not None:
            message.rerun_script.widget_states.widgets.append(widget)
        self._socket.send(message.SerializeToString())

    def read(self) -> None:
        """Read until the script has ended. A run that a newer one cut short does not count as its end."""
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        while True:
            received = self._socket.recv(timeout=TIMEOUT, decode=False)
            self.received.append(received)
            message = ForwardMsg()
            message.ParseFromString(received)
            kind = message.WhichOneof("type")
            if kind == "new_session":
                self.pair, self.buttons = None, {}
            elif kind == "delta":
                self._take(message.delta.new_element)
            elif kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                return

    def _take(self, element: Any) -> None:
        if element.WhichOneof("type") == "bidi_component":
            self.pair, self.pair_widget = json.loads(element.bidi_component.json), element.bidi_component.id
        elif element.WhichOneof("type") == "button":
            self.buttons[element.button.label] = element.button.id

    def look(self, side: str) -> str:
        """Fetch an image of the pair; returns its digest. Fetches each once, as a browser does."""
        assert self.pair is not None
        path = self.pair[side]
        if path not in self._seen:
            request = urllib.request.Request(f"{self.url}{path}", headers={"Cookie": self.cookie})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                self._seen[path] = hashlib.sha256(answer.read()).hexdigest()
        return self._seen[path]


@contextmanager
def open_tab(url: str, link: str) -> Iterator[Tab]:
    """Sign in with a link at the server's address. Raises BenchError when the link is refused."""
    from websockets.sync.client import connect

    cookie = sign_in(url, link)
    address = f"ws{url.removeprefix('http')}/_stcore/stream"
    with connect(address, additional_headers={"Cookie": cookie}, max_size=None, open_timeout=TIMEOUT) as socket:
        yield Tab(url, cookie, socket)


def wait_until_up(url: str, seconds: float = 120.0) -> None:
    """Wait until a study's server answers. Raises BenchError when it does not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=5):
                return
        except OSError:  # not listening yet
            time.sleep(0.1)
    raise BenchError(f"{url} did not answer within {seconds:.0f} s")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def sign_in(url: str, link: str) -> str:
    """Exchange a link for the session's cookie, as ``NAME=VALUE``. Raises BenchError when it is refused."""
    form = urllib.parse.urlencode({"token": link.partition("#")[2]}).encode()
    try:
        urllib.request.build_opener(_NoRedirect).open(f"{url}/enter", form, timeout=TIMEOUT)
    except urllib.error.HTTPError as answer:
        if answer.code == 303:
            return str(answer.headers["Set-Cookie"]).partition(";")[0]
        raise BenchError(f"the link was refused ({answer.code})") from answer
    raise BenchError(f"{url} is not a study's server")


@dataclass
class Work:
    """What a simulated annotator did, and how long the server took from each choice to the next page."""

    votes: int = 0
    seconds: list[float] = field(default_factory=list)


def annotate(
    url: str,
    link: str,
    preferences: Preferences,
    seed: int,
    limit: int | None = None,
    think: Callable[[random.Random], float] = lambda _: 0.0,
) -> Work:
    """Sign in and judge until there is no more, or ``limit`` votes. ``think`` gives the seconds before each choice."""
    rng = random.Random(seed)
    work = Work()
    with open_tab(url, link) as tab:
        while limit is None or work.votes < limit:
            going_on = next((label for label in ("I agree, and begin", "Start", "Go on") if label in tab.buttons), None)
            if going_on is not None:
                tab.press(going_on)
                tab.run()
                continue
            if tab.pair is None:
                break
            choice = preferences.choose(tab.pair["prompt"], tab.look("left"), tab.look("right"), rng)
            time.sleep(think(rng))
            start = time.perf_counter()
            tab.choose(choice)
            work.seconds.append(time.perf_counter() - start)
            work.votes += 1
    return work
