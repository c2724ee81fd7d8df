"""Where files come from: an http(s) server or a folder, read in ranges.

A server is not trusted to be well: it may stall, reset, send too little, ignore ranges, answer with a login page or
with another version of the file than a moment ago. Each of these is told apart here, and none passes for the file.
"""

from __future__ import annotations

import http.client
import io
import math
import os
import random
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from reference_impl.files.manifest import DataError

READ_BYTES = 1 << 20
MIN_BYTES_PER_S = 1024
"""A connection slower than this for a whole time-out is stalled, though it drips."""

_Answer = TypeVar("_Answer")

_TRY_AGAIN_LATER = {408, 425, 429, 500, 502, 503, 504}


class Missing(DataError):
    """There is no such file."""


class Interruption(Exception):
    """A fault that may be gone at the next try: a time-out, a reset, a short answer, an overloaded server."""


@dataclass(frozen=True)
class Remote:
    """What a source says of a file."""

    bytes: int
    ranges: bool
    """Whether parts of it can be read."""
    version: str = ""
    """Differs where the content does (a server's ETag or date); empty where the source has none."""


def _unsaid(_text: str) -> None:
    """A notice that nobody gets."""


@dataclass(frozen=True)
class Patience:
    """How often a request is tried, and how long is waited in between: twice as long each time, up to a limit."""

    tries: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    notice: Callable[[str], object] = _unsaid
    """Told of each try that failed, from any thread."""

    def pause_s(self, fault: Interruption, failures: int) -> float:
        """How long to wait after so many failures in a row; random, so that connections do not come back all at once.

        Raises:
            DataError: that was the last try.
        """
        if failures >= self.tries:
            raise DataError(f"{fault}; gave up after {self.tries} tries in a row")
        seconds = min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)
        self.notice(f"{fault}; try {failures + 1} of {self.tries} in {seconds:.1f} s")
        return seconds

    def call(self, work: Callable[[], _Answer]) -> _Answer:
        """What `work` returns, once it does so without an Interruption.

        Raises:
            DataError: it never did.
        """
        failures = 0
        while True:
            try:
                return work()
            except Interruption as fault:
                failures += 1
                pause_s = self.pause_s(fault, failures)
            time.sleep(pause_s)


PATIENCE = Patience()


class Source(Protocol):
    """Files by name. Every method may be called from several threads."""

    def probe(self, name: str) -> Remote:
        """What is there, without reading it.

        Raises:
            Missing, DataError: it is not there, or cannot be had.
            Interruption: perhaps at the next try.
        """
        ...

    def read(self, name: str, remote: Remote, start: int, stop: int) -> Iterator[bytes]:
        """Bytes [start, stop) of a file, in order; all of it where the source has no ranges.

        Raises:
            DataError: they cannot be had.
            Interruption: fewer came, or they are of another file than `remote`.
        """
        ...

    def text(self, name: str, limit: int) -> bytes:
        """A small file, whole.

        Raises:
            Missing, DataError: it is not there, cannot be had, or is longer than `limit`.
            Interruption: perhaps at the next try.
        """
        ...

    def where(self, name: str) -> str:
        """The address of a file, for people."""
        ...


def parse_url(text: str) -> urllib.parse.SplitResult:
    """An address in its parts.

    Raises:
        DataError: it is none.
    """
    try:
        return urllib.parse.urlsplit(text)
    except ValueError as error:
        raise DataError(f"{text} is no address: {error}") from None


def open_source(location: str, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> Source:
    """The source at a URL (http, https, file) or in a folder.

    Raises:
        DataError: it is neither.
    """
    url = parse_url(location)
    if url.password is not None:
        raise DataError("an address is shown in errors, and this one holds a password; give a header with --headers")
    if url.scheme in ("http", "https") and url.hostname:
        return HttpSource(location, headers or {}, timeout_s)
    if url.scheme == "file" and url.netloc in ("", "localhost"):
        return FolderSource(Path(urllib.request.url2pathname(url.path)))
    if not url.scheme:
        return FolderSource(Path(location))
    raise DataError(f"{location} is no source of files; valid: http://..., https://..., file:///folder, a folder")


@dataclass(frozen=True)
class FolderSource:
    """A folder on this machine: a mirror, a mounted disk."""

    folder: Path

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def probe(self, name: str) -> Remote:
        path = self.folder / name
        try:
            status = path.stat()
        except OSError as error:
            raise Missing(f"{path}: {error.strerror}") from None
        if not path.is_file():
            raise Missing(f"{path} is no file")
        return Remote(status.st_size, ranges=True, version=str(status.st_mtime_ns))

    def read(self, name: str, remote: Remote, start: int, stop: int) -> Iterator[bytes]:
        try:
            with (self.folder / name).open("rb", buffering=0) as file:
                while start < stop:
                    data = os.pread(file.fileno(), min(READ_BYTES, stop - start), start)
                    if not data:
                        raise DataError(f"{self.where(name)} ended at {start} of {remote.bytes} bytes")
                    start += len(data)
                    yield data
        except OSError as error:
            raise DataError(f"{self.where(name)}: {error.strerror}") from None

    def text(self, name: str, limit: int) -> bytes:
        remote = self.probe(name)
        if remote.bytes > limit:
            raise DataError(f"{self.where(name)} has {remote.bytes} bytes, a list of files at most {limit}")
        return b"".join(self.read(name, remote, 0, remote.bytes))


@dataclass(frozen=True)
class HttpSource:
    """A base URL. Proxies are those of the environment, as for every urllib program."""

    base: str
    headers: Mapping[str, str]
    """Sent with each request to the base's own scheme and host, and to no other."""
    timeout_s: float
    _opener: urllib.request.OpenerDirector = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        redirects = _Redirects(urllib.parse.urlsplit(self.base)[:2], self.headers)
        object.__setattr__(self, "_opener", urllib.request.build_opener(_Http(), _Https(), _AnyStatus(), redirects))

    def where(self, name: str) -> str:
        return f"{self.base.rstrip('/')}/{urllib.parse.quote(name)}"

    def probe(self, name: str) -> Remote:
        # The first byte, and not HEAD: the answer to a range is the only proof that ranges work.
        with self._open(name, "bytes=0-0", {200, 206, 416}) as answer:
            length = _length(answer.headers) if answer.status == 200 else _range_total(answer.headers)
            if length is None:
                raise DataError(f"{self.where(name)}: the server does not say how long it is")
            if answer.status == 416 and length > 0:
                raise DataError(f"{self.where(name)}: the server refuses the first of {length} bytes")
            return Remote(length, ranges=answer.status != 200, version=_version(answer.headers))

    def read(self, name: str, remote: Remote, start: int, stop: int) -> Iterator[bytes]:
        if start == stop:
            return
        wanted = f"bytes={start}-{stop - 1}" if remote.ranges else None
        with self._open(name, wanted, {206 if remote.ranges else 200}) as answer:
            version = _version(answer.headers)
            if version != remote.version:
                # Or several servers behind a name disagree, and the next try meets the one that was probed.
                raise Interruption(f"{self.where(name)} changed: it is now {version}, it was {remote.version}")
            if remote.ranges:
                expected, found = f"bytes {start}-{stop - 1}/{remote.bytes}", answer.headers.get("Content-Range")
            else:
                expected, found = str(remote.bytes), answer.headers.get("Content-Length")
            if found != expected:
                raise Interruption(f"{self.where(name)}: the answer holds {found}, asked for {expected}")
            yield from self._body(name, answer, stop - start)

    def text(self, name: str, limit: int) -> bytes:
        with self._open(name, None, {200}) as answer:
            wanted = _length(answer.headers)
            if wanted is not None and wanted > limit:
                raise DataError(f"{self.where(name)} has {wanted} bytes, a list of files at most {limit}")
            data = b"".join(self._body(name, answer, limit + 1, exact=False))
        if len(data) > limit:
            raise DataError(f"{self.where(name)} has more than the {limit} bytes that a list of files may have")
        if wanted is not None and len(data) != wanted:
            raise Interruption(f"{self.where(name)}: the answer ended after {len(data)} of {wanted} bytes")
        return data

    def _body(self, name: str, answer: http.client.HTTPResponse, count: int, *, exact: bool = True) -> Iterator[bytes]:
        """The answer's first `count` bytes; raises if it has fewer and `exact`."""
        received = 0
        while received < count:
            try:
                # read1 returns what is there; read would wait for all of it.
                data = answer.read1(min(READ_BYTES, count - received))
            except (OSError, http.client.HTTPException) as error:
                raise Interruption(f"{self.where(name)}: {_reason(error)} after {received} of {count} bytes") from None
            if not data:
                if exact:
                    raise Interruption(f"{self.where(name)}: the answer ended after {received} of {count} bytes")
                return
            received += len(data)
            yield data

    def _open(self, name: str, wanted: str | None, statuses: set[int]) -> http.client.HTTPResponse:
        """An answer with one of the statuses."""
        address = self.where(name)
        headers = {**self.headers, "User-Agent": "mlperf-llama31"} | ({} if wanted is None else {"Range": wanted})
        request = urllib.request.Request(address, headers=headers)
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            raise DataError(f"{address}: {error.code} {error.reason}") from None
        except DataError:
            raise
        except (ValueError, http.client.InvalidURL) as error:
            raise DataError(f"{address} is no address, or leads to what is none: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Interruption(f"{address}: {_reason(error)}") from None
        if answer.status in statuses:
            if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
                answer.close()
                raise DataError(f"{address}: the server sends it as {coding}, asked for the file as it is")
            return answer
        with answer:
            status = f"{address}: {answer.status} {answer.reason}"
            if answer.status in (404, 410):
                raise Missing(status)
            # A success of another kind than the probe's: one of several servers behind a name, perhaps.
            raise Interruption(status) if answer.status in {*_TRY_AGAIN_LATER, 200, 206} else DataError(status)


class _Steady(io.RawIOBase):
    """A connection's bytes, those of headers too. Its own time-out is of one wait, and each drip would end that."""

    def __init__(self, connection: io.RawIOBase, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._start, self._bytes = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """What is there; TimeoutError where hardly a byte came for a whole time-out."""
        count: int | None = self._connection.readinto(buffer)
        self._bytes += count or 0
        elapsed = time.monotonic() - self._start
        if elapsed > self._timeout_s:
            if self._bytes < MIN_BYTES_PER_S * elapsed:
                raise TimeoutError(f"{self._bytes} bytes in {elapsed:.0f} s")
            self._start, self._bytes = time.monotonic(), 0
        return count

    def close(self) -> None:
        self._connection.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **more: Any) -> None:
        super().__init__(sock, *arguments, **more)
        self.fp = io.BufferedReader(_Steady(self.fp.detach(), sock.gettimeout() or math.inf))


class _SteadyAnswers(urllib.request.AbstractHTTPHandler):
    """Has connections read by `_Steady`."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **more: Any) -> http.client.HTTPResponse:
        def connection(host: str, **settings: Any) -> http.client.HTTPConnection:
            made: http.client.HTTPConnection = http_class(host, **settings)
            made.response_class = _Response
            return made

        return super().do_open(connection, req, **more)


class _Http(_SteadyAnswers, urllib.request.HTTPHandler): ...


class _Https(_SteadyAnswers, urllib.request.HTTPSHandler): ...


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """Hands every answer but a redirect to the caller, where urllib raises for all but 2xx."""

    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        if not 300 <= response.status < 400:
            return response
        try:
            return super().http_response(request, response)
        except BaseException:
            response.close()
            raise

    https_response = http_response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never carries our headers to another host, and says when one leads to a login."""

    def __init__(self, origin: tuple[str, str], private: Mapping[str, str]) -> None:
        self._origin = origin
        self._private = {name.lower() for name in private}

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        target = urllib.parse.urlsplit(newurl)
        if target.scheme not in ("http", "https"):
            raise DataError(f"{req.full_url} leads to {newurl}, expected http or https")
        if "/cdn-cgi/access/login" in target.path or (target.hostname or "").endswith(".cloudflareaccess.com"):
            raise DataError(
                f"{req.full_url} is behind a login ({target.netloc}); give the service token's headers with --headers"
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and target[:2] != self._origin:
            request.headers = {
                name: value for name, value in request.headers.items() if name.lower() not in self._private
            }
        return request


def _version(headers: http.client.HTTPMessage) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _length(headers: http.client.HTTPMessage) -> int | None:
    match = re.fullmatch(r"[0-9]{1,18}", headers.get("Content-Length", ""))
    return None if match is None else int(match[0])


def _range_total(headers: http.client.HTTPMessage) -> int | None:
    """N of `Content-Range: bytes 0-0/N` or `bytes */N`."""
    match = re.fullmatch(r"bytes (?:0-0|\*)/([0-9]{1,18})", headers.get("Content-Range", ""))
    return None if match is None else int(match[1])


def _reason(error: Exception) -> str:
    """What an exception of the network says, for people."""
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
