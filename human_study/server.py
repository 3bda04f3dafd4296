"""The web server: Streamlit's pages, the route that serves images, and the route that signs in.

Images and sign-in are routes of their own: Streamlit would compress PNG files into JPEG, and cannot set a cookie.
"""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs

import streamlit as st
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from benchmarks.types import BenchError
from human_study import links
from human_study.folder import Study

SignIn = Literal["links", "oidc", "local"]
TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")
#: What st.login needs to know of a provider.
PROVIDER = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
#: A browser's form with one of our links in it is shorter.
LONGEST_FORM = 4096

# The token stands behind the # of a link: a browser never sends that part, so it is in no log, and programs that look
# at links in messages before their reader does cannot use it up.
ENTER = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Image study</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">
<style>body{{font-family:sans-serif;max-width:32rem;margin:4rem auto;padding:0 1rem;line-height:1.5}}
button{{font:inherit;padding:.6rem 1.5rem}}</style>
<h1>Image study</h1><p id="message">{message}</p>
<form method="post" action="enter"><input type="hidden" name="token"><button{hidden}>Begin</button></form>
<script nonce="{nonce}">
const token = location.hash.slice(1);
document.querySelector("input").value = token;
history.replaceState(null, "", location.pathname);
</script></html>"""
WELCOME = "You were invited to compare images. The link signs you in on this device, and works once."


@dataclass(frozen=True)
class Serving:
    """What this process serves, and how people sign in. local: whoever reaches the server, which only this machine
    does; oidc: through the provider that .streamlit/secrets.toml names, under the e-mail address they are enrolled by.
    """

    study: Study
    sign_in: SignIn = "links"
    https: bool = False


# The script that Streamlit runs for every page has no other way to learn it.
_serving: Serving | None = None


def use(serving: Serving) -> None:
    """Set what the pages and routes of this process are about."""
    global _serving
    _serving = serving


def serving() -> Serving:
    """What ``use`` was given last."""
    if _serving is None:
        raise RuntimeError("nothing is served; start with blip3o-bench study serve")
    return _serving


def app() -> st.App:
    """The ASGI application about what ``use`` was given."""
    return st.App(Path(__file__).with_name("script.py"), routes=routes())


def routes() -> list[Route]:
    """What is served beside Streamlit's pages."""
    return [
        Route("/enter", _enter, methods=["GET"]),
        Route("/enter", _sign_in, methods=["POST"]),
        Route("/img/{token}", _image, methods=["GET"]),
    ]


def check(what: Serving, address: str, port: int) -> None:
    """Raises BenchError when the port is taken, or sign-in by OIDC is not set up."""
    if what.sign_in == "oidc":
        _check_provider()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise BenchError(f"cannot serve on {address}:{port}: {error.strerror}; choose another --port") from error


def run(what: Serving, address: str, port: int) -> None:
    """Serve until interrupted."""
    use(what)
    app().run(
        config={
            "server.address": address,
            "server.port": port,
            "server.headless": True,
            "server.fileWatcherType": "none",
            "browser.gatherUsageStats": False,
            "client.toolbarMode": "minimal",
            "client.showErrorDetails": "none",  # a traceback may name models
            "logger.level": "warning",
        }
    )


def _check_provider() -> None:
    """Streamlit would notice only when somebody signs in, and tell them nothing."""
    try:
        given = st.secrets.get("auth", {})
    except FileNotFoundError:
        given = {}
    missing = [name for name in PROVIDER if not given.get(name)]
    if missing:
        raise BenchError(
            f"--sign-in oidc needs {', '.join(missing)} under [auth] in .streamlit/secrets.toml of the folder that the "
            "server is started in"
        )


async def _enter(_: Request) -> Response:
    return _page(WELCOME)


async def _sign_in(request: Request) -> Response:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            return _page("This is not a link to this study.", status=413)
    token = parse_qs(body.decode("ascii", "replace")).get("token", [""])[0]
    here = serving().study
    try:
        cookie = await run_in_threadpool(links.redeem, here.store, here.key, token)
    except links.LinkError as error:
        return _page(str(error), status=403)
    response = RedirectResponse("./", status_code=303)
    response.set_cookie(
        links.cookie_name(here.store),
        cookie,
        max_age=links.SESSION_DAYS * 86400,
        httponly=True,
        samesite="lax",
        secure=serving().https,
    )
    return response


def _page(message: str, status: int = 200) -> Response:
    nonce = secrets.token_urlsafe(16)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; form-action 'self'"
    return HTMLResponse(
        ENTER.format(message=message, nonce=nonce, hidden=" hidden" if status != 200 else ""),
        status,
        {"Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Frame-Options": "DENY"},
    )


def _image(request: Request) -> Response:
    """An image of a pair that the signed-in annotator has; anybody else, and any other token, gets a plain 404."""
    token = request.path_params["token"]
    here = serving().study
    who = links.person(here.store, request.cookies.get(links.cookie_name(here.store)))
    digest = here.store.image(who.id, token) if who and TOKEN.fullmatch(token) else None
    if digest is None:
        return Response("not found", 404, {"Cache-Control": "no-store"})
    headers = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
    return FileResponse(here.image(digest), media_type="image/png", headers=headers)
