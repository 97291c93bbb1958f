"""Who may talk to the lab: checks of Host, Origin and token, and the headers that keep other pages out."""

import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Checks requests.

    On the loopback interface only this machine's programs reach the server; Host and Origin keep the pages of other
    sites out, also those whose name points to 127.0.0.1. On any other interface the address of the page needs a token.
    """

    def __init__(self, host: str) -> None:
        self.token = "" if host in LOOPBACK else secrets.token_urlsafe(24)

    def host_known(self, host: str | None) -> bool:
        """Whether a Host header names this machine; with a token, which other sites do not know, any name will do."""
        try:
            name = urlsplit(f"//{host}").hostname if host else None
        except ValueError:
            return False
        return name is not None and (name in LOOPBACK or bool(self.token))

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a connection of a page is refused; None if it may talk to us."""
        host, origin = headers.get("host"), headers.get("origin")
        if not self.host_known(host):
            return "the Host is another one"
        if origin not in (f"http://{host}", f"https://{host}"):
            return "the page is of another site"
        return None

    def token_known(self, token: str) -> bool:
        """Whether a page has the token."""
        return secrets.compare_digest(token.encode(), self.token.encode())
