"""Where files come from: an http(s) server or a folder, read in ranges.

A server may misbehave: it may stall, reset, send too little, ignore ranges, or answer with a login page or with another
version of the file than a moment ago. This module tells each of these apart, and none is taken for the file.
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
"""A connection that stays below this rate for a whole time-out counts as stalled, even if it still drips."""

MOST_REDIRECTS = 10

LONGEST_RETRY_AFTER_S = 300
"""Longest pause that a server may ask for, whatever its answer says."""

_Result = TypeVar("_Result")

_TRY_AGAIN_LATER = {408, 425, 429, 500, 502, 503, 504}


class MissingFileError(DataError):
    """There is no such file."""


class TransferInterruptedError(HarnessError):
    """A fault that may be gone at the next try: a time-out, a reset, a short answer, an overloaded server.

    Args:
        retry_after_s: how long the server asks to be left alone.
    """

    def __init__(self, said: str, retry_after_s: float = 0.0) -> None:
        super().__init__(said)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Remote:
    """What a source reports about a file."""

    bytes: int
    ranges: bool
    """Whether parts of it can be read."""
    version: str = ""
    """Differs if the content does (a server's ETag or date); empty if the source has none."""


def _unsaid(_text: str) -> None:
    """Drop a notice."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is tried, and the pause between tries: it doubles each time, up to a limit."""

    tries: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    notice: Callable[[str], object] = _unsaid
    """Called with a line about each failed try, from any thread."""

    def pause_s(self, fault: TransferInterruptedError, failures: int) -> float:
        """Return the pause in seconds after this many failures in a row.

        It is random, so that connections do not all come back at once.

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
        """Call `work` until it returns without an TransferInterruptedError, and return its result.

        Raises:
            DataError: every try failed.
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
        """Describe a file without reading it.

        Raises:
            MissingFileError, DataError: it is not there, or is unavailable.
            TransferInterruptedError: the next try may succeed.
        """
        ...

    def read(self, name: str, remote: Remote, start: int, stop: int) -> Iterator[bytes]:
        """Return bytes [start, stop) of a file, in order; the whole file if the source has no ranges.

        Raises:
            DataError: they are unavailable.
            TransferInterruptedError: fewer arrived, or they belong to another version of the file than `remote`.
        """
        ...

    def text(self, name: str, limit: int) -> bytes:
        """Return a small file, whole.

        Raises:
            MissingFileError, DataError: it is not there, is unavailable, or is longer than `limit` bytes.
            TransferInterruptedError: the next try may succeed.
        """
        ...

    def where(self, name: str) -> str:
        """Return the address of a file, for messages."""
        ...


def parse_url(text: str) -> urllib.parse.SplitResult:
    """Split an address into its parts.

    Raises:
        DataError: it is not an address.
    """
    try:
        return urllib.parse.urlsplit(text)
    except ValueError as error:
        raise DataError(f"{text} is not an address: {error}") from None


def open_source(location: str, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> Source:
    """Return the source at a URL (http, https, file) or in a folder.

    Raises:
        DataError: it is neither.
    """
    url = parse_url(location)
    if url.password is not None:
        raise DataError("errors show an address, and this one holds a password; give a header with --headers instead")
    if url.scheme in ("http", "https") and url.hostname:
        return HttpSource(location, headers or {}, timeout_s)
    if url.scheme == "file" and url.netloc in ("", "localhost"):
        return FolderSource(Path(urllib.request.url2pathname(url.path)))
    if not url.scheme:
        return FolderSource(Path(location))
    raise DataError(f"{location} is not a source of files; valid: http://..., https://..., file:///folder, a folder")


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
            raise MissingFileError(f"{path} is not a file")
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
    """A base URL. Proxies are those of the environment, as for every program that uses urllib's."""

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
        # Ask for the first byte, not HEAD: only the answer to a range proves that ranges work.
        with self._open(name, "bytes=0-0", {200, 206, 416}) as answer:
            length = _length(answer.headers) if answer.status == 200 else _range_total(answer.headers)
            if length is None:
                raise DataError(f"{self.where(name)}: the server does not report how long it is")
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
                # Or several servers behind one name disagree, and the next try meets the one that was probed.
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
        """Yield the answer's first `count` bytes; raise TransferInterruptedError if it has fewer and `exact` is set."""
        received = 0
        while received < count:
            try:
                # read1 returns what has arrived; read would wait for all of it.
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
        """Request a file and return an answer with one of `statuses`."""
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
            # A success of another kind than the probe's: perhaps one of several servers behind one name.
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
                raise DataError(f"{address} is not an address, or leads to something that is not: {error}") from None
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
                # The certificate will be the same at the next try.
                raise DataError(f"{address}: its certificate is not trusted: {cause.verify_message}") from None
            raise TransferInterruptedError(f"{address}: {_reason(error)}") from None
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise TransferInterruptedError(f"{address}: {_reason(error)}") from None


Answer = urllib3.BaseHTTPResponse


def _pools(base: str, timeout_s: float) -> urllib3.PoolManager:
    """Return a pool that keeps the connections to each host."""
    url = urllib.parse.urlsplit(base)
    # The most requests that anybody has at a time: connections beyond the maximum would be closed after each request.
    options: dict[str, Any] = {"timeout": timeout_s, "maxsize": 256}
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        pools: urllib3.PoolManager = urllib3.ProxyManager(proxy, **options)
    else:
        pools = urllib3.PoolManager(**options)
    pools.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pools


class _Steady(io.RawIOBase):
    """A connection's bytes, headers included. Its own time-out restarts with every byte, so this bounds the rate."""

    def __init__(self, connection: io.RawIOBase, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._start, self._bytes = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what has arrived; raise TimeoutError below MIN_BYTES_PER_S for a whole time-out."""
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
    """Raise DataError for a redirect to something that cannot be a file."""
    url = parse_url(target)
    if url.scheme not in ("http", "https"):
        raise DataError(f"{here} leads to {target}, expected http or https")
    if "/cdn-cgi/access/login" in url.path or (url.hostname or "").endswith(".cloudflareaccess.com"):
        raise DataError(f"{here} is behind a login ({url.netloc}); give the service token's headers with --headers")


def _retry_after(answer: Answer) -> float:
    """Return the seconds that an overloaded server asks for, within reason; 0 if it gives no readable number."""
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
    """Return N of `Content-Range: bytes 0-0/N` or `bytes */N`."""
    match = re.fullmatch(r"bytes (?:0-0|\*)/([0-9]{1,18})", headers.get("Content-Range", ""))
    return None if match is None else int(match[1])


def _reason(error: Exception) -> str:
    """Return the message of a network exception, for people."""
    # urllib3's own texts name its objects; the system's or _Steady's message is behind them.
    cause = error.__cause__ or error.__context__ or error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
