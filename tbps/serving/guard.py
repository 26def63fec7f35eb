"""Who may ask, and what a browser may do with the answer.

A request is let through where its Host header names this server (a page of somebody else whose name was made to lead here
does not: DNS rebinding), where no other site's page sent it, and, if there is a token, where it brings that: in the header
`Authorization: Bearer TOKEN`, in a cookie, or once as `?token=TOKEN`, which is answered with the cookie.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tbps.serving.access_log import AccessLog

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
COOKIE = "tbps_token"
_HIDDEN = re.compile(r"((?:^|[?&])token=)[^&]*")


class Guard:
    """Stands before the application; every request and its answer pass it."""

    def __init__(self, app: ASGIApp, *, token: str, names: frozenset[str], any_address: bool, log: AccessLog) -> None:
        """token: empty = none is needed; names: what Host may be, in small letters without a port; any_address: any IP
        address too (nobody can make a name out of one), not only those in `names`."""
        self._app = app
        self._token = token
        self._names = names
        self._any_address = any_address
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there is no web socket here
            await send({"type": "websocket.close", "code": 1008})
            return
        started, told = time.perf_counter(), {"status": 500, "size": 0}

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                own = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(each for each in more if each[0] not in own)]
            elif message["type"] == "http.response.body":
                told["size"] += len(message.get("body", b""))
            await send(message)

        try:
            refusal = self._refusal(Request(scope))
            await (self._app if refusal is None else refusal)(scope, receive, sealed)
        finally:
            self._log.line(
                client=(scope.get("client") or ("-", 0))[0],
                request=_shown(scope),
                status=told["status"],
                size=told["size"],
                seconds=time.perf_counter() - started,
            )

    def _refusal(self, request: Request) -> Response | None:
        """What is answered instead; None where the request is let through."""
        host = request.headers.get("host", "")
        if not self._is_own(host):
            return _text(f"this server is not {host[:80]!r}; open the address that tbps serve printed\n", 421)
        site = request.headers.get("sec-fetch-site", "none")
        if site in ("cross-site", "same-site") and request.url.path != "/":
            return _text("pages of other sites may not ask here\n", 403)
        if not self._token:
            return None
        brought = request.query_params.get("token")
        if brought is not None and self._fits(brought):
            kept = [pair for pair in parse_qsl(request.url.query, keep_blank_values=True) if pair[0] != "token"]
            # A path that begins with two slashes would lead elsewhere.
            target = "/" + request.url.path.lstrip("/") + (f"?{urlencode(kept)}" if kept else "")
            response = RedirectResponse(target, status_code=303, headers={"cache-control": "no-store"})
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", path="/")
            return response
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        if (kind.lower() == "bearer" and self._fits(bearer.strip())) or self._fits(request.cookies.get(COOKIE, "")):
            return None
        said = "this server wants a token; open the address that tbps serve printed, which ends in ?token=...\n"
        return _text(said, 401, **{"www-authenticate": "Bearer"})

    def _fits(self, brought: str) -> bool:
        """In a time that says nothing of the token."""
        return hmac.compare_digest(brought.encode(errors="surrogateescape"), self._token.encode())

    def _is_own(self, host: str) -> bool:
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(?::[0-9]{1,5})?", host)
        if found is None:
            return False
        name = found[1].strip("[]").lower().rstrip(".")
        return name in self._names or (self._any_address and is_address(name))


def is_address(name: str) -> bool:
    """Whether it is an IP address, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _text(said: str, status: int, **headers: str) -> Response:
    return PlainTextResponse(said, status, {"cache-control": "no-store", **headers})


def _shown(scope: Scope) -> str:
    """Method and address as they came, without the token."""
    path = (scope.get("raw_path") or scope["path"].encode()).decode("ascii", errors="backslashreplace").partition("?")[0]
    query = scope["query_string"].decode("ascii", errors="backslashreplace")
    return f"{scope['method']} {path}" + ("?" + _HIDDEN.sub(r"\1...", query) if query else "")
