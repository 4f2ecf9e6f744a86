"""Where a request goes, from its address: worked out once for each address."""

from __future__ import annotations

import base64
import functools
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from agentrun.core.plain import PlainValue

__all__ = ["Target", "target_of"]

_PORTS = {"http": 80, "https": 443}
# What may stand in a path and a query as it is: RFC 3986, 3.3 and 3.4, and the percent sign of what is quoted already.
_SAFE = "/?%:@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Target(PlainValue):
    """An address, taken apart.

    Attributes:
        origin: Whether it is TLS, the host and the port: what a connection can be used for.
        host_header: For the ``host`` header.
        path: With the query, for the request line.
        authorization: The ``authorization`` header that a name and a password in the address stand for.
    """

    origin: tuple[bool, str, int]
    host_header: str
    path: str
    authorization: str | None


@functools.lru_cache(maxsize=256)
def target_of(url: str) -> Target:
    """Take an ``http`` or ``https`` address apart."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    tls = parts.scheme == "https"
    port = parts.port or _PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    authorization = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
    path = quote(parts.path or "/", safe=_SAFE)
    return Target(
        origin=(tls, host, port),
        host_header=shown if port == _PORTS[parts.scheme] else f"{shown}:{port}",
        path=f"{path}?{quote(parts.query, safe=_SAFE)}" if parts.query else path,
        authorization=authorization,
    )
