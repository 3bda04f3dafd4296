"""A server of the tests' own, in a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from threading import Thread
from typing import TypeVar

S = TypeVar("S", bound=HTTPServer)


@contextmanager
def in_thread(server: S) -> Iterator[S]:
    """Let ``server`` answer until the block ends."""
    with server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})  # seconds to see shutdown()
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
