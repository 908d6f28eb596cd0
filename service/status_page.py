"""A small HTTP server beside the gRPC one: metrics, health, and a page to look at. It changes nothing.

``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for orchestrators, ``/`` the page, ``/status.json`` what it
shows, ``POST /search`` its search box. The page, ``data/status.html``, loads nothing from elsewhere, and sets all that
it shows as text, never as HTML.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import numpy as np

from nearhash import __version__
from nearhash.errors import InvalidArgumentError, NearhashError, ServiceError, UnknownCollectionError, UnknownIdError
from nearhash.service.catalog import Catalog
from nearhash.service.metrics import Metrics
from nearhash.service.searchable import ServedCollection
from nearhash.service.security.access import ANYONE, Principal, check, visible
from nearhash.service.security.keys import KeyRing
from nearhash.service.security.transport import is_local

_LARGEST_BODY = 1 << 20
_MOST_DRAINED = 16 << 20
_MOST_FOUND = 100
_SEARCHES = 2  # at a time
_SECONDS = 10.0  # for a caller to send its request


class StatusServer:
    """The HTTP server, on threads of its own.

    Parameters
    ----------
    address
        ``host:port``; port 0 takes a free one.
    catalog, metrics
        What it shows.
    ring
        API keys: with them everything but health asks for one, of the role read at least.
    ready
        Whether the gRPC server serves.
    page
        Also serve the page and its search box, not the metrics alone.
    contexts
        For HTTPS: gives the context of each connection; None for plain HTTP.
    """

    def __init__(
        self,
        address: str,
        catalog: Catalog,
        metrics: Metrics,
        ring: KeyRing | None,
        ready: Callable[[], bool],
        page: bool = True,
        contexts: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._view = _View(catalog, metrics, ring, ready, page)
        view = self._view

        class Handler(_Handler):
            pass

        Handler.view = view
        Handler.local = is_local(address)
        try:
            self._server = _PageServer((host.strip("[]"), int(port)), Handler)
        except OSError as error:
            raise ServiceError(f"status page: cannot listen on {address}: {error.strerror}", "UNAVAILABLE") from error
        self._server.contexts = contexts
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="nearhash-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _PageServer(ThreadingHTTPServer):
    daemon_threads = True
    contexts: Callable[[], ssl.SSLContext] | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection, on its own thread: a handshake takes as long as the other side likes, at most a time."""
        if self.contexts is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_SECONDS)
        # What fails is somebody who speaks no TLS, has no certificate, or is gone.
        with suppress(OSError), self.contexts().wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)


class _View:
    """What there is to see, and for whom."""

    def __init__(
        self, catalog: Catalog, metrics: Metrics, ring: KeyRing | None, ready: Callable[[], bool], page: bool
    ) -> None:
        self.catalog, self.metrics, self.ring, self.ready, self.page = catalog, metrics, ring, ready, page
        self._started = time.time()
        self._searches = threading.BoundedSemaphore(_SEARCHES)

    def status(self, principal: Principal) -> dict[str, Any]:
        stats = self.metrics.collections()
        return {
            "version": __version__,
            "started": self._started,
            "now": time.time(),
            "ready": self.ready(),
            "pending": self.metrics.pending,
            "throughput": self.metrics.throughput(),
            "latencies": self.metrics.latencies(),
            "failures": [failure._asdict() for failure in list(self.metrics.failures)],
            "collections": [stats[name] for name in visible(principal, stats)],
        }

    def search(self, principal: Principal, asked: Any) -> dict[str, Any]:
        """The nearest points of one that is there, or of a vector."""
        if not isinstance(asked, dict) or not isinstance(asked.get("collection"), str):
            raise InvalidArgumentError("collection: expected a name")
        name, k = asked["collection"], asked.get("k", 10)
        if type(k) is not int or not 1 <= k <= _MOST_FOUND:
            raise InvalidArgumentError(f"k: expected 1 to {_MOST_FOUND}")
        check(principal, "read", name)
        if not self._searches.acquire(timeout=_SECONDS):
            raise ServiceError("too many searches at once; try again", "RESOURCE_EXHAUSTED")
        try:
            served = self.catalog.find(name)
            if not isinstance(served, ServedCollection):
                raise InvalidArgumentError("collection: expected a collection, got an index")
            with served.use() as collection:
                if "vector" in asked:
                    vector: Any = np.asarray(asked["vector"], np.float64)
                else:
                    own = asked.get("id")
                    points = collection.get([own], vectors=True, payloads=False)
                    if points[0] is None or points[0].vector is None:
                        raise UnknownIdError(f"id: no point {own!r:.80} here")
                    vector = points[0].vector
                found = collection.search(vector, k, payloads=True, threads=1)
        finally:
            self._searches.release()
        rows = zip(found.ids[0].tolist(), found.distances[0].tolist(), (found.payloads or [[]])[0], strict=True)
        return {
            "points": [
                {"id": own, "distance": distance, "payload": payload}
                for own, distance, payload in rows
                if own not in (-1, None)
            ]
        }


class _Handler(BaseHTTPRequestHandler):
    view: _View
    local: bool
    server_version = "nearhash"
    sys_version = ""
    timeout = _SECONDS

    def do_GET(self) -> None:
        if not self._is_meant():
            return
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._send(HTTPStatus.OK, b"ok\n", "text/plain")
        elif path == "/readyz":
            ready = self.view.ready()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(status, b"ready\n" if ready else b"not ready\n", "text/plain")
        elif path == "/metrics":
            principal = self._principal()
            if principal is not None:
                text = self.view.metrics.text(principal.granted)
                self._send(HTTPStatus.OK, text, "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/" and self.view.page:
            self._send_page()
        elif path == "/status.json" and self.view.page:
            principal = self._principal()
            if principal is not None:
                self._send_json(HTTPStatus.OK, self.view.status(principal))
        else:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "nothing here"})

    def do_POST(self) -> None:
        if not self._is_meant():
            return
        if self.path != "/search" or not self.view.page:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "nothing here"})
            return
        principal = self._principal()
        if principal is None:
            return
        length = self.headers.get("Content-Length", "")
        # A page of another origin cannot send this type without asking first, which is not answered.
        if self.headers.get_content_type() != "application/json" or not length.isdecimal():
            self._send_json(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "expected application/json of a known length"})
            return
        if int(length) > _LARGEST_BODY:
            self.close_connection = True
            for _ in range(min(int(length), _MOST_DRAINED) // _LARGEST_BODY):  # or the caller would see a broken pipe
                self.rfile.read(_LARGEST_BODY)
            self._send_json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"expected at most {_LARGEST_BODY} bytes"})
            return
        try:
            asked = json.loads(self.rfile.read(int(length)))
            self._send_json(HTTPStatus.OK, self.view.search(principal, asked))
        except (UnknownCollectionError, UnknownIdError) as error:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": str(error)})
        except ServiceError as error:
            denied = error.code == "PERMISSION_DENIED"
            status = HTTPStatus.FORBIDDEN if denied else HTTPStatus.SERVICE_UNAVAILABLE
            self._send_json(status, {"error": str(error)})
        except (InvalidArgumentError, ValueError, TypeError, RecursionError) as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)[:500]})
        except NearhashError:
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "the search failed; the server's log says why"})

    def _is_meant(self) -> bool:
        """Refuse requests under a foreign name: a site whose name leads here could read what this machine alone may."""
        host = self.headers.get("Host", "")
        meant = not self.local or is_local(host if host.rpartition(":")[2].isdecimal() else f"{host}:80")
        if not meant:
            self._send_json(HTTPStatus.MISDIRECTED_REQUEST, {"error": f"host: expected this machine, got {host!r:.80}"})
        return meant

    def _principal(self) -> Principal | None:
        """Who asks; None after a refusal was sent."""
        ring = self.view.ring
        if ring is None:
            return ANYONE
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        principal = ring.authenticate(token.strip()) if kind.lower() == "bearer" else None
        if principal is None:
            self._send_json(HTTPStatus.UNAUTHORIZED, {"error": "authorization: expected Bearer and a valid API key"})
        return principal

    def _send_page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; connect-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        page = files("nearhash").joinpath("data/status.html").read_text("utf-8").replace("{{nonce}}", nonce).encode()
        self._send(HTTPStatus.OK, page, "text/html; charset=utf-8", {"Content-Security-Policy": policy})

    def _send_json(self, status: HTTPStatus, document: dict[str, Any]) -> None:
        self._send(status, json.dumps(document, default=str).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: they hold nothing that the metrics do not."""
