"""Which files a download fetches, and what is known about them: a manifest, an MD5 list, or the published sizes.

MLCommons publishes a set of files as `<name>.uri`, a text with the base address, and `<name>.md5` next to it, which
`md5sum -c` reads. Our own sets have `manifest.json` next to the files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reference_impl.data.fetch.sources import (
    RETRY_POLICY,
    HttpSource,
    MissingFileError,
    RetryPolicy,
    Source,
    open_source,
    parse_url,
)
from reference_impl.data.published import PublishedFiles, repaired_name
from reference_impl.files.checksum import Algorithm
from reference_impl.files.manifest import FILE_NAME, DataError, FolderManifest, checked_name, parse_any

LIST_BYTES = 256 << 20
"""Most bytes of a list: a million files."""

_MD5_LINE = re.compile(r"([0-9a-f]{32}) [ *](?:\./)?(.+)")


@dataclass(frozen=True)
class Wanted:
    """A file to fetch."""

    name: str
    """Name at the source."""
    local: str
    """Path below the destination folder."""
    bytes: int | None = None
    checksum: tuple[Algorithm, str] | None = None
    """None if no list states it."""


@dataclass(frozen=True)
class Listing:
    source: Source
    files: list[Wanted]
    manifest: FolderManifest | None = None
    """The source's own manifest, if it has one; a `Manifest` if it is a dataset's."""

    @property
    def promise(self) -> str:
        """How a file is checked, in words."""
        kinds = {"size" if file.checksum is None else file.checksum[0] for file in self.files}
        return f"{' and '.join(sorted(kinds))} as listed"


def listing(
    location: str,
    *,
    published: PublishedFiles | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
    patience: RetryPolicy = RETRY_POLICY,
) -> Listing:
    """Return what a download from `location` fetches: everything in its list, or only the files that `published` names.

    Args:
        location: a URL or path that ends in `.uri`, or a base URL or folder with `manifest.json`. With `published`, the
            list may be missing.
        headers: sent only to the location's own host.

    Raises:
        DataError: there is no list, it is malformed, or a published file is not in it.
    """
    if location.endswith(".uri"):
        source, files = _mlcommons(location, headers or {}, timeout_s, patience)
        return Listing(source, _only(files, published, location))
    source = open_source(location, headers, timeout_s)
    try:
        text = patience.call(lambda: source.text(FILE_NAME, LIST_BYTES))
    except MissingFileError:
        if published is None:
            raise DataError(
                f"{source.where(FILE_NAME)} does not exist; a source needs that list, or is a .uri address with an "
                ".md5 list next to it, or holds the files that --expect names"
            ) from None
        return Listing(source, [Wanted(name, name, size) for name, size in published.sizes.items()])
    manifest = parse_any(text, source.where(FILE_NAME))
    files = [Wanted(name, name, entry.bytes, entry.checksum) for name, entry in manifest.files.items()]
    return Listing(source, _only(files, published, location), manifest)


def _mlcommons(
    location: str, headers: Mapping[str, str], timeout_s: float, patience: RetryPolicy
) -> tuple[Source, list[Wanted]]:
    parent, _, name = location.rpartition("/")
    beside = open_source(parent or ".", headers, timeout_s)
    text = patience.call(lambda: beside.text(name, 1 << 20)).decode(errors="replace").strip()
    if re.fullmatch(r"https?://\S+|file://\S+", text) is None:
        raise DataError(f"{location} holds {text[:60]!r}, expected the base address of the files")
    if text.startswith("file:") and isinstance(beside, HttpSource):
        raise DataError(f"{location} leads to {text[:60]!r}: a server cannot name a folder of this machine")
    # The headers may hold a secret, which the text must not be able to send elsewhere.
    same_host = parse_url(text)[:2] == parse_url(location)[:2]
    md5 = name.removesuffix(".uri") + ".md5"
    sums = parse_md5sums(patience.call(lambda: beside.text(md5, LIST_BYTES)), beside.where(md5))
    files = [Wanted(name, repaired_name(name), checksum=("md5", digest)) for name, digest in sums.items()]
    twice = [name for name, count in Counter(file.local for file in files).items() if count > 1]
    if twice:
        raise DataError("\n".join(f"{beside.where(md5)} lists {name} under two names" for name in twice))
    return open_source(text, headers if same_host else {}, timeout_s), files


def parse_md5sums(text: bytes, origin: str) -> dict[str, str]:
    """Return name -> digest from a list as `md5sum` writes it; errors name its `origin`.

    Raises:
        DataError: with every line that does not belong in such a list.
    """
    sums: dict[str, str] = {}
    faults: list[str] = []
    for number, line in enumerate(text.decode(errors="replace").removesuffix("\n").split("\n"), start=1):
        match = _MD5_LINE.fullmatch(line)
        try:
            if match is None:
                raise ValueError(f"{line[:80]!r} is not a line of an MD5 list")
            if sums.setdefault(checked_name(match[2]), match[1]) != match[1]:
                raise ValueError(f"{match[2]} is listed twice")
        except ValueError as error:
            faults.append(f"{origin}, line {number}: {error}")
    if not sums:
        raise DataError(f"{origin} is not an MD5 list: it starts with {text[:60]!r}")
    if faults:
        raise DataError("\n".join(faults))
    return sums


def parse_headers(lines: Iterable[str] | None) -> dict[str, str]:
    """Parse HTTP headers, one `Name: value` a line.

    Raises:
        DataError: a line is not a header. The line is not shown, since it may hold a secret.
    """
    headers: dict[str, str] = {}
    for number, line in enumerate(lines or (), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([A-Za-z0-9-]+):\s*(\S.*)", line.strip())
        if match is None:
            raise DataError(f"line {number} of the headers is not of the form `Name: value`")
        headers[match[1]] = match[2]
    return headers


def _only(files: Iterable[Wanted], published: PublishedFiles | None, origin: str) -> list[Wanted]:
    """Return the published files, with their sizes; all files if `published` is None."""
    if published is None:
        return list(files)
    by_name = {file.local: file for file in files}
    if missing := [name for name in published.sizes if name not in by_name]:
        raise DataError(
            "\n".join(f"{origin} does not list {name}, which the {published.about} has" for name in missing)
        )
    listed = [by_name[name] for name in published.sizes]
    wrong = [
        f"{origin} lists {file.local} with {file.bytes} bytes, the {published.about} has {size}"
        for file in listed
        if file.bytes is not None and (size := published.sizes[file.local]) not in (None, file.bytes)
    ]
    if wrong:
        raise DataError("\n".join(wrong))
    return [Wanted(file.name, file.local, published.sizes[file.local] or file.bytes, file.checksum) for file in listed]
