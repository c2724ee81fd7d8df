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
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import urllib3

from benchmark.errors import HarnessError
from reference_impl.files.manifest import DataError

READ_BYTES = 1 << 20
MIN_BYTES_PER_S = 1024
"""A connection slower than this for a whole time-out is stalled, though it drips."""

MOST_REDIRECTS = 10

LONGEST_RETRY_AFTER_S = 300
"""That a server is granted, whatever it asks for."""

_Result = TypeVar("_Result")

_TRY_AGAIN_LATER = {408, 425, 429, 500, 502, 503, 504}


class MissingFileError(DataError):
    """There is no such file."""


class TransferInterruptedError(HarnessError):
    """A fault that may be gone at the next try: a time-out, a reset, a short answer, an overloaded server.

    Args:
        retry_after_s: how long the server wants to be left alone.
    """

    def __init__(self, said: str, retry_after_s: float = 0.0) -> None:
        super().__init__(said)
        self.retry_after_s = retry_after_s


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
class RetryPolicy:
    """How often a request is tried, and how long is waited in between: twice as long each time, up to a limit."""

    tries: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    notice: Callable[[str], object] = _unsaid
    """Told of each try that failed, from any thread."""

    def pause_s(self, fault: TransferInterruptedError, failures: int) -> float:
        """Return how long to wait after so many failures in a row; random, so that connections do not come back all at
        once.

        Raises:
            DataError: that was the last try.
        """
        if failures >= self.tries:
            raise DataError(f"{fault}; gave up after {self.tries} tries in a row")
        seconds = min(self.longest_wait_s, self.first_wait_s * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)
        seconds = max(seconds, fault.retry_after_s)
        self.notice(f"{fault}; try {failures + 1} of {self.tries} in {seconds:.1f} s")
        return seconds

    def call(self, work: Callable[[], _Result]) -> _Result:
        """What `work` returns, once it does so without a TransferInterruptedError.

        Raises:
            DataError: it never did.
        """
        failures = 0
        while True:
            try:
                return work()
            except TransferInterruptedError as fault:
                failures += 1
                pause_s = self.pause_s(fault, failures)
            time.sleep(pause_s)


RETRY_POLICY = RetryPolicy()


class Source(Protocol):
    """Files by name. Every method may be called from several threads."""

    def probe(self, name: str) -> Remote:
        """What is there, without reading it.

        Raises:
            MissingFileError, DataError: it is not there, or cannot be had.
            TransferInterruptedError: perhaps at the next try.
        """
        ...

    def read(self, name: str, remote: Remote, start: int, stop: int) -> Iterator[bytes]:
        """Return bytes [start, stop) of a file, in order; all of it where the source has no ranges.

        Raises:
            DataError: they cannot be had.
            TransferInterruptedError: fewer came, or they are of another file than `remote`.
        """
        ...

    def text(self, name: str, limit: int) -> bytes:
        """Return a small file, whole.

        Raises:
            MissingFileError, DataError: it is not there, cannot be had, or is longer than `limit`.
            TransferInterruptedError: perhaps at the next try.
        """
        ...

    def where(self, name: str) -> str:
        """Return the address of a file, for people."""
        ...


def parse_url(text: str) -> urllib.parse.SplitResult:
    """Return an address in its parts.

    Raises:
        DataError: it is none.
    """
    try:
        return urllib.parse.urlsplit(text)
    except ValueError as error:
        raise DataError(f"{text} is no address: {error}") from None


def open_source(location: str, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> Source:
    """Return the source at a URL (http, https, file) or in a folder.

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
            raise MissingFileError(f"{path}: {error.strerror}") from None
        if not path.is_file():
            raise MissingFileError(f"{path} is no file")
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
    """A base URL. Proxies are those of the environment, as for every program that asks urllib for them."""

    base: str
    headers: Mapping[str, str]
    """Sent with each request to the base's own scheme and host, and to no other."""
    timeout_s: float
    _pools: urllib3.PoolManager = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pools", _pools(self.base, self.timeout_s))

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
                raise TransferInterruptedError(
                    f"{self.where(name)} changed: it is now {version}, it was {remote.version}"
                )
            if remote.ranges:
                expected, found = f"bytes {start}-{stop - 1}/{remote.bytes}", answer.headers.get("Content-Range")
            else:
                expected, found = str(remote.bytes), answer.headers.get("Content-Length")
            if found != expected:
                raise TransferInterruptedError(f"{self.where(name)}: the answer holds {found}, asked for {expected}")
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
            raise TransferInterruptedError(f"{self.where(name)}: the answer ended after {len(data)} of {wanted} bytes")
        return data

    def _body(self, name: str, answer: Answer, count: int, *, exact: bool = True) -> Iterator[bytes]:
        """Yield the answer's first `count` bytes; raises if it has fewer and `exact`."""
        received = 0
        while received < count:
            try:
                # read1 returns what is there; read would wait for all of it.
                data = answer.read1(min(READ_BYTES, count - received))
            except (OSError, urllib3.exceptions.HTTPError) as error:
                raise TransferInterruptedError(
                    f"{self.where(name)}: {_reason(error)} after {received} of {count} bytes"
                ) from None
            if not data:
                if exact:
                    raise TransferInterruptedError(
                        f"{self.where(name)}: the answer ended after {received} of {count} bytes"
                    )
                return
            received += len(data)
            yield data

    def _open(self, name: str, wanted: str | None, statuses: set[int]) -> Answer:
        """Return an answer with one of the statuses."""
        address = self.where(name)
        answer = self._follow(address, {} if wanted is None else {"Range": wanted})
        if answer.status in statuses:
            if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
                answer.close()
                raise DataError(f"{address}: the server sends it as {coding}, asked for the file as it is")
            return answer
        with answer:
            status = f"{address}: {answer.status} {answer.reason}"
            if answer.status in (404, 410):
                raise MissingFileError(status)
            # A success of another kind than the probe's: one of several servers behind a name, perhaps.
            if answer.status in {*_TRY_AGAIN_LATER, 200, 206}:
                raise TransferInterruptedError(status, _retry_after(answer))
            raise DataError(status)

    def _follow(self, address: str, headers: Mapping[str, str]) -> Answer:
        """Return the answer at the end of all redirects."""
        origin = parse_url(self.base)[:2]
        here = address
        for _ in range(MOST_REDIRECTS):
            private = self.headers if parse_url(here)[:2] == origin else {}
            try:
                answer = self._ask(here, {**private, "User-Agent": "mlperf-llama31", **headers})
                location = answer.get_redirect_location()
                if not location:
                    return answer
                answer.close()
                target = urllib.parse.urljoin(here, location)
            except (ValueError, urllib3.exceptions.LocationParseError) as error:
                raise DataError(f"{address} is no address, or leads to what is none: {error}") from None
            _refuse_redirect(here, target)
            here = target
        raise DataError(f"{address}: more than {MOST_REDIRECTS} redirects, the last to {here}")

    def _ask(self, address: str, headers: Mapping[str, str]) -> Answer:
        whole: dict[str, Any] = {"retries": False, "redirect": False, "preload_content": False, "decode_content": False}
        try:
            return self._pools.request("GET", address, headers=headers, **whole)
        except urllib3.exceptions.LocationParseError:
            raise
        except urllib3.exceptions.SSLError as error:
            if isinstance(cause := error.args[0], ssl.SSLCertVerificationError):
                # No later try meets another certificate.
                raise DataError(f"{address}: its certificate is not trusted: {cause.verify_message}") from None
            raise TransferInterruptedError(f"{address}: {_reason(error)}") from None
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise TransferInterruptedError(f"{address}: {_reason(error)}") from None


Answer = urllib3.BaseHTTPResponse


def _pools(base: str, timeout_s: float) -> urllib3.PoolManager:
    """Connections that are kept, to each host that is asked."""
    url = urllib.parse.urlsplit(base)
    # As many as anybody has requests at a time: more would be closed after each.
    options: dict[str, Any] = {"timeout": timeout_s, "maxsize": 256}
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        pools: urllib3.PoolManager = urllib3.ProxyManager(proxy, **options)
    else:
        pools = urllib3.PoolManager(**options)
    pools.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pools


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


class _Http(urllib3.connection.HTTPConnection):
    response_class = _Response


class _Https(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https


def _refuse_redirect(here: str, target: str) -> None:
    """Raise DataError for one that leads nowhere a file can be."""
    url = parse_url(target)
    if url.scheme not in ("http", "https"):
        raise DataError(f"{here} leads to {target}, expected http or https")
    if "/cdn-cgi/access/login" in url.path or (url.hostname or "").endswith(".cloudflareaccess.com"):
        raise DataError(f"{here} is behind a login ({url.netloc}); give the service token's headers with --headers")


def _retry_after(answer: Answer) -> float:
    """Return seconds that an overloaded server asks for, within reason; 0 where it says nothing that can be read."""
    try:
        return urllib3.Retry(retry_after_max=LONGEST_RETRY_AFTER_S).get_retry_after(answer) or 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0


def _version(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _length(headers: Mapping[str, str]) -> int | None:
    match = re.fullmatch(r"[0-9]{1,18}", headers.get("Content-Length", ""))
    return None if match is None else int(match[0])


def _range_total(headers: Mapping[str, str]) -> int | None:
    """N of `Content-Range: bytes 0-0/N` or `bytes */N`."""
    match = re.fullmatch(r"bytes (?:0-0|\*)/([0-9]{1,18})", headers.get("Content-Range", ""))
    return None if match is None else int(match[1])


def _reason(error: Exception) -> str:
    """What an exception of the network says, for people."""
    # urllib3's own texts name its objects; what the system or _Steady said is behind them.
    cause = error.__cause__ or error.__context__ or error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
