"""The routes beside Streamlit's pages: signing in, and images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from human_study import links, server
from human_study.folder import Study
from tests.human_study.studies import study_with_images


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = study_with_images(tmp_path)
    server.use(server.Serving(made))
    return made


@pytest.fixture
def client(study: Study) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=server.routes()), base_url="http://testserver", follow_redirects=False) as client:
        yield client


def token_for(study: Study, name: str) -> str:
    return links.issue(study.store, study.key, study.store.enrol(name).id, hours=1)


def test_signing_in_sets_a_cookie_that_scripts_cannot_read_and_leads_to_the_pages(
    study: Study, client: TestClient
) -> None:
    answer = client.post("/enter", data={"token": token_for(study, "ann")})
    assert answer.status_code == 303
    assert answer.headers["location"] == "./"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie  # http://localhost
    person = links.person(study.store, client.cookies[links.cookie_name(study.store)])
    assert person is not None
    assert person.name == "ann"


def test_behind_https_the_cookie_is_for_https_only(study: Study, client: TestClient) -> None:
    server.use(server.Serving(study, https=True))
    answer = client.post("/enter", data={"token": token_for(study, "ann")})
    assert "secure" in answer.headers["set-cookie"].lower()


def test_looking_at_a_link_does_not_use_it_up(study: Study, client: TestClient) -> None:
    token = token_for(study, "ann")
    page = client.get("/enter")  # what a browser sends for /enter#TOKEN, and what a preview in a chat would fetch
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.post("/enter", data={"token": token}).status_code == 303


@pytest.mark.parametrize("token", ["", "x", "<script>alert(1)</script>", "a.b", "\u2603", "x" * 3000])
def test_other_tokens_are_refused_and_not_repeated(study: Study, client: TestClient, token: str) -> None:
    answer = client.post("/enter", data={"token": token})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "alert(1)" not in answer.text
    assert "xxxx" not in answer.text


def test_oversized_forms_are_refused(client: TestClient) -> None:
    assert client.post("/enter", data={"token": "x" * 10**6}).status_code == 413


def test_images_are_served_as_stored_to_their_annotator_only(study: Study, client: TestClient) -> None:
    client.post("/enter", data={"token": token_for(study, "ann")})
    pair = study.store.work(study.store.enrol("ann").id)[0]
    for token in (pair.left_token, pair.right_token):
        answer = client.get(f"/img/{token}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["cache-control"] == "private, max-age=86400, immutable"
        assert "access-control-allow-origin" not in answer.headers
        assert study.image(hashlib.sha256(answer.content).hexdigest()).exists()
    client.cookies.clear()
    assert client.get(f"/img/{pair.left_token}").status_code == 404  # nobody is signed in
    client.post("/enter", data={"token": token_for(study, "bob")})
    assert client.get(f"/img/{pair.left_token}").status_code == 404  # somebody else is
    client.cookies.set(links.cookie_name(study.store), "x" * 43)
    assert client.get(f"/img/{pair.left_token}").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["..%2fkey", "%2e%2e/key", "..%5ckey", "....//key", "key", "%00", "x" * 5000, "' OR 1=1 --", "study.json"],
)
def test_no_token_leads_out_of_the_images(study: Study, client: TestClient, path: str) -> None:
    client.post("/enter", data={"token": token_for(study, "ann")})
    answer = client.get(f"/img/{path}")
    assert answer.status_code == 404
    assert study.key not in answer.content


def test_no_secret_is_logged(study: Study, client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = token_for(study, "ann")
    client.get("/enter")
    client.post("/enter", data={"token": token})
    client.post("/enter", data={"token": token})  # refused
    cookie = client.cookies[links.cookie_name(study.store)]
    assert token not in caplog.text
    assert cookie not in caplog.text
    assert study.key.hex() not in caplog.text


def test_two_servers_do_not_share_a_port(study: Study) -> None:
    import socket

    from benchmarks.types import BenchError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BenchError, match="choose another --port"):
            server.check(server.Serving(study), "127.0.0.1", taken.getsockname()[1])
