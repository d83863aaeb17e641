"""Access to the dashboard, and the rights of its page: checks before every request, headers on every answer.

A page that only this machine can reach needs no token, but must refuse other web sites. The checks use the Host header (against a foreign name that
resolves to 127.0.0.1), the Origin header on every request that changes something, and the browser's Sec-Fetch-Site header. On other addresses, a
request needs a token too.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SHORTEST_TOKEN = 12
SAFE_METHODS = frozenset({"GET", "HEAD"})
PUBLIC_API = "/api/login"
"""The only call that needs no token. It changes nothing but the caller's cookie."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text never becomes markup, not even by mistake
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",  # the address may contain the token
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def new_token() -> str:
    """Return a new token that cannot be guessed."""
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """The rules of access.

    Attributes:
        token: the token that requests must carry; None if only this machine can reach the page.
        read_only: whether the dashboard refuses every command.
        cookie: the name of the cookie that stands for the token.
    """

    token: str | None = field(default=None, repr=False)
    read_only: bool = False
    cookie: str = "jetflow_ui"

    @property
    def pass_value(self) -> str:
        """The cookie's value. It is derived from the token, which cannot be computed from it."""
        return hmac.new((self.token or "").encode(), b"jetflow dashboard", hashlib.sha256).hexdigest()

    def accepts(self, token: str) -> bool:
        """Return whether this is the token, in the same time for a wrong one."""
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def admits(self, headers: Headers) -> bool:
        """Return whether a request carries the token or the cookie."""
        return self.token is None or self.has_bearer(headers) or hmac.compare_digest(_cookie(headers, self.cookie).encode(), self.pass_value.encode())

    def has_bearer(self, headers: Headers) -> bool:
        """Return whether a request carries the token itself, as programs do and other web sites cannot."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.accepts(token.strip())

    def set_cookie(self, headers: MutableHeaders, scheme: str) -> None:
        """Set the browser's cookie."""
        secure = "; Secure" if scheme == "https" else ""
        headers.append("set-cookie", f"{self.cookie}={self.pass_value}; Path=/; HttpOnly; SameSite=Strict{secure}")


class Guard:
    """Middleware that checks every request and sets the same headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        api = scope["path"].startswith("/api/")

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if api:
                    headers["cache-control"] = "no-store"
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope), api)
        await (self._app if refusal is None else refusal)(scope, receive, guarded_send)

    def _refusal(self, scope: Scope, headers: Headers, api: bool) -> JSONResponse | None:
        if self._access.token is None and not _is_local_name(headers.get("host", "")):
            return _refuse(403, "this page is reached by 127.0.0.1 or localhost only; for other names start it with --token")
        if not api:
            return None if scope["method"] in SAFE_METHODS else _refuse(405, "the page itself can only be read")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _refuse(403, "another web site asked for this")
        public = scope["path"] == PUBLIC_API
        if not public and not self._access.admits(headers):
            return _refuse(401, "the token is missing or wrong")
        if scope["method"] in SAFE_METHODS:
            return None
        if not self._access.has_bearer(headers) and not _same_origin(headers):
            return _refuse(403, "the Origin header must be this page's own; programs send `Authorization: Bearer` or the same Origin")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _refuse(415, "the body must be application/json")
        if self._access.read_only and not public:
            return _refuse(403, "this dashboard is read-only")
        return None


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def _is_local_name(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "") and "@" not in host
    except ValueError:
        return False


def _same_origin(headers: Headers) -> bool:
    """Return whether Origin and Host agree. The scheme is ignored, since a proxy may have changed it."""
    host = headers.get("host", "").lower()
    return bool(host) and headers.get("origin", "").lower() in (f"http://{host}", f"https://{host}")


def _cookie(headers: Headers, name: str) -> str:
    return cookie_parser(headers.get("cookie", "")).get(name, "")
