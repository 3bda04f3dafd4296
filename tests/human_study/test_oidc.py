"""Signing in through an identity provider: a small one on this machine, and all steps that a browser takes."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

from benchmarks.types import BenchError
from human_study import server
from human_study.folder import Study
from human_study.simulate import Tab, open_tab
from tests.human_study.serving import Served, free_port, link_button, serve
from tests.human_study.studies import study_with_images
from tests.serving import in_thread

CLIENT, SECRET = "the-study", "a-secret-of-both"


def new_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})


@dataclass
class Provider:
    """Discovery, authorization code with PKCE, signed tokens, and the key to check them."""

    url: str
    claims: dict[str, Any] = field(default_factory=dict)  # of whoever signs in next
    signing: RSAKey = field(default_factory=new_key)
    published: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)  # of the last authorization

    def configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser is sent back to; whoever sits there has just agreed."""
        assert (asked["client_id"], asked["response_type"]) == (CLIENT, "code")
        assert "openid" in asked["scope"].split()
        assert "email" in asked["scope"].split()
        self.asked = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': 'once', 'state': asked['state']})}"

    def token(self, form: dict[str, str]) -> dict[str, Any]:
        assert (form["grant_type"], form["code"]) == ("authorization_code", "once")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
        assert challenge.decode().rstrip("=") == self.asked["code_challenge"]
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 300}
        claims |= {"nonce": self.asked["nonce"], **self.claims}
        signed = jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.signing)
        return {"access_token": "unused", "token_type": "Bearer", "expires_in": 300, "id_token": signed}


@contextmanager
def provide() -> Iterator[Provider]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            split = urlsplit(self.path)
            if split.path == "/authorize":
                self.send_response(302)
                self.send_header("Location", provider.authorize(flat(split.query)))
                self.end_headers()
            elif split.path == "/.well-known/openid-configuration":
                self.answer(provider.configuration())
            else:
                assert split.path == "/jwks"
                self.answer({"keys": [provider.published]})

        def do_POST(self) -> None:
            assert self.path == "/token"
            credentials = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
            assert self.headers["Authorization"] == f"Basic {credentials}"
            self.answer(provider.token(flat(self.rfile.read(int(self.headers["Content-Length"])).decode())))

        def answer(self, value: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    def flat(query: str) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(query).items()}

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Provider(f"http://127.0.0.1:{listening.server_port}")
    provider.published = dict(provider.signing.as_dict(private=False))
    with in_thread(listening):
        yield provider


def secrets(folder: Path, provider: str, port: int) -> None:
    (folder / ".streamlit").mkdir(parents=True)
    (folder / ".streamlit" / "secrets.toml").write_text(
        f"""[auth]
redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
cookie_secret = "long, random and known to nobody"
client_id = "{CLIENT}"
client_secret = "{SECRET}"
server_metadata_url = "{provider}/.well-known/openid-configuration"
""",
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study_with_images(tmp_path_factory.mktemp("oidc"))


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with provide() as running:
        yield running


@pytest.fixture(scope="module")
def served(study: Study, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("started in"), free_port()
    secrets(folder, provider.url, port)
    with serve(study, "--sign-in", "oidc", port=port, folder=folder) as running:
        yield running


@contextmanager
def browse(served: Served, browser: httpx.Client) -> Iterator[Tab]:
    """A tab with the browser's cookies, which it sends as a page of the server's own."""
    browser.get(f"{served.url}/_stcore/health")  # sets the cookie against forged requests
    token = browser.cookies["_streamlit_xsrf"]
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = {"Cookie": cookies, "Origin": served.url}
    address = f"ws{served.url.removeprefix('http')}/_stcore/stream"
    with connect(address, additional_headers=headers, subprotocols=["streamlit", token], max_size=None) as socket:  # type: ignore[list-item]
        yield Tab(served.url, cookies, socket)


def redirect(tab: Tab) -> str:
    """Where the page has sent the browser."""
    messages = map(ForwardMsg.FromString, tab.received)
    return next(str(one.auth_redirect.url) for one in messages if one.WhichOneof("type") == "auth_redirect")


@contextmanager
def signed_in(served: Served) -> Iterator[Tab]:
    """The page after the provider has said who it is."""
    with httpx.Client(follow_redirects=True, timeout=60) as browser:
        with browse(served, browser) as tab:
            tab.press("Sign in")
            assert browser.get(f"{served.url}{redirect(tab)}").status_code == 200
        with browse(served, browser) as tab:
            yield tab


def test_who_is_enrolled_by_a_confirmed_address_may_judge(served: Served, provider: Provider) -> None:
    enrolled = served.study.store.enrol("ann@example.org")
    provider.claims = {"email": "ann@example.org", "email_verified": True}
    with signed_in(served) as page:
        assert "Sign in" not in page.buttons
    with open_tab(served.url, f"{served.url}/{link_button(page)}") as tab:
        tab.press("I agree, and begin")
        tab.press("Start")
        tab.run()
        assert tab.pair is not None
        tab.choose("left")
    assert [person.id for person in served.study.store.people() if person.consented] == [enrolled.id]


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "bob@example.org", "email_verified": False},
        {"email": "bob@example.org"},
        {"email": "eve@example.org", "email_verified": True},
        {"email_verified": True},
    ],
)
def test_nobody_else_may(served: Served, provider: Provider, claims: dict[str, Any]) -> None:
    served.study.store.enrol("bob@example.org")
    provider.claims = claims
    with signed_in(served) as page:
        assert list(page.buttons) == ["Sign out"]
        assert b"not enrolled in this study" in b"".join(page.received)
        assert b"enter#" not in b"".join(page.received)


def test_a_token_that_another_key_signed_signs_nobody_in(served: Served, provider: Provider) -> None:
    served.study.store.enrol("carol@example.org")
    provider.claims = {"email": "carol@example.org", "email_verified": True}
    own, provider.signing = provider.signing, new_key()
    try:
        with signed_in(served) as page:
            assert list(page.buttons) == ["Sign in"]
    finally:
        provider.signing = own
    assert SECRET not in served.log.read_text()


def test_serving_without_a_provider_says_what_to_write(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BenchError, match=r"needs redirect_uri, .* under \[auth\] in \.streamlit/secrets\.toml"):
        server.check(server.Serving(study, "oidc"), "127.0.0.1", free_port())
