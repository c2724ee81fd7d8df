"""An HTTP server on this machine that serves files, and misbehaves as a test asks."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from reference_impl.files.manifest import FILE_NAME

Fault = Literal["truncate", "reset", "stall", "drip", "drip headers", "wrong bytes", "other range", "503", "403", "200"]

PIECE_BYTES = 16 << 10
DRIPS = 600
"""Bytes that drip, which take longer than anyone waits."""


@dataclass
class Site:
    """What the server has, and how it behaves; may be changed while it runs."""

    files: Mapping[str, bytes]
    faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    """By name: what goes wrong with the next requests for content, one after the other; the last one stays if `always`.
    """
    always: bool = False
    ranges: bool = True
    etag: str = '"1"'
    coding: str | None = None
    """Content-Encoding that is named in the answers, though the bytes are the file's."""
    redirects: Mapping[str, str] = field(default_factory=dict)
    """Name -> where a request for it is sent."""
    pieces: float = float("inf")
    """Of files but the manifest, that are sent from now on; the next one waits until there are more."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(name, Range) of every request for content."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of every request."""
    url: str = ""
    sending: threading.Lock = field(default_factory=threading.Lock)

    def take_piece(self) -> None:
        """Wait until a piece may be sent."""
        while True:
            with self.sending:
                if self.pieces > 0:
                    self.pieces -= 1
                    return
            time.sleep(0.005)

    def next_fault(self, name: str) -> Fault | None:
        faults = self.faults.get(name, [])
        if not faults:
            return None
        return faults[0] if self.always and len(faults) == 1 else faults.pop(0)


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve until the block ends."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are expected."""


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site, name = self.site, urllib.parse.unquote(self.path.lstrip("/"))
        wanted = self.headers.get("Range")
        site.headers.append(dict(self.headers.items()))
        if name in site.redirects:
            self._answer(302, {"Location": site.redirects[name]}, b"")
            return
        content = site.files.get(name)
        if content is None:
            self._answer(404, {}, b"")
            return
        fault = None
        if wanted != "bytes=0-0":
            site.requests.append((name, wanted))
            fault = site.next_fault(name)
        if fault in ("503", "403"):
            self._answer(int(fault), {}, b"no")
            return
        if fault == "drip headers":
            self.close_connection = True
            self._drip(b"HTTP/1.1 200 " + b"O" * DRIPS)
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "") if site.ranges and fault != "200" else None
        headers = {"ETag": site.etag} | ({} if site.coding is None else {"Content-Encoding": site.coding})
        if match is None:
            self._send(200, headers, content, fault)
            return
        start, stop = int(match[1]), min(int(match[2]) + 1, len(content))
        if start >= len(content):
            self._answer(416, {**headers, "Content-Range": f"bytes */{len(content)}"}, b"")
            return
        if fault == "other range":
            start = max(0, start - 1)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self._send(206, headers, content[start:stop], fault)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body) if length is None else length)}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault | None) -> None:
        """The body, piece by piece, or what the fault makes of it."""
        if fault == "wrong bytes":
            body = bytes([body[0] ^ 1]) + body[1:]
        whole = fault not in ("truncate", "reset", "stall", "drip")
        self._answer(status, headers, b"", length=len(body))
        sent = body if whole else body[: len(body) // 2]
        for start in range(0, len(sent), PIECE_BYTES):
            if not self.path.endswith(FILE_NAME):
                self.site.take_piece()
            self.wfile.write(sent[start : start + PIECE_BYTES])
        if whole:
            return
        self.close_connection = True
        if fault == "reset":
            # Closing with unsent time to linger of zero makes the kernel send a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault == "stall":
            self.rfile.read()
        elif fault == "drip":
            self._drip(body[len(sent) : len(sent) + DRIPS])

    def _drip(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
