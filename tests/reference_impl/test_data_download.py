"""Downloads: whatever a server does, a file gets its name only with its right bytes, and every fault is reported at
once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import urllib3
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmark.benchmarks import FileSet
from benchmark.checkout import ROOT
from harness.verbs.data import data as main
from reference_impl.data.fetch.download import WORK, Settings, download_set
from reference_impl.data.fetch.listing import listing, parse_headers, parse_md5sums
from reference_impl.data.fetch.partial import Partial
from reference_impl.data.fetch.sources import LONGEST_RETRY_AFTER_S, RetryPolicy, TransferInterruptedError, _retry_after
from reference_impl.data.published import PUBLISHED, PublishedFiles, repaired_name
from reference_impl.files.manifest import FILE_NAME, DataError, FileEntry, FolderManifest, checked_name
from tests.reference_impl.hostile_server import Fault, Site, serve
from tests.waiting import wait_until

SEGMENT_BYTES = 64 << 10
SLOW: set[Fault | None] = {"stall", "drip", "drip headers"}
"""Faults that cost a time-out: a short one, which a busy machine may reach by itself, is for tests of these alone, and
with more tries than the faults take."""
SETTINGS = Settings(
    connections=4, segment_bytes=SEGMENT_BYTES, patience=RetryPolicy(tries=3, first_wait_s=0.01, longest_wait_s=0.02)
)

_CONTENT = random.Random(1).randbytes(5 * SEGMENT_BYTES + 123)
FILES = {
    "large.bin": _CONTENT,
    "sub/other.bin": _CONTENT[::-1],
    "sub/.hidden": b"xy",
    "empty": b"",
    "a name with spaces, and é?#%.txt": b"text",
}


def manifest_of(files: Mapping[str, bytes]) -> FolderManifest:
    return FolderManifest(
        files={
            name: FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()
        }
    )


def with_manifest(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {**files, FILE_NAME: manifest_of(files).model_dump_json().encode()}


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site(with_manifest(FILES))) as running:
        yield running


def fetch(
    location: str,
    folder: Path,
    settings: Settings = SETTINGS,
    published: PublishedFiles | None = None,
    fault: Fault | None = None,
) -> None:
    timeout_s = 1.0 if fault in SLOW else 600.0
    if fault in SLOW:
        settings = replace(settings, patience=replace(settings.patience, tries=40))
    listed = listing(location, published=published, timeout_s=timeout_s, patience=settings.patience)
    download_set(listed, folder, published, settings)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != FILE_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_served_is_what_arrives(site: Site, tmp_path: Path) -> None:
    """Every file has the served bytes, over several requests where it is long, and the folder verifies itself."""
    fetch(site.url, tmp_path / "here")

    assert contents(tmp_path / "here") == FILES
    assert FolderManifest.load(tmp_path / "here") == manifest_of(FILES)
    assert len([name for name, _ in site.requests if name == "large.bin"]) == 6


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_folder_is_a_source_too(form: str, tmp_path: Path) -> None:
    """A local mirror is copied with the same checks."""
    mirror = tmp_path / "mirror"
    for name, data in with_manifest(FILES).items():
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).write_bytes(data)

    fetch(form.format(mirror), tmp_path / "here")

    assert contents(tmp_path / "here") == FILES


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("fault", ["truncate", "reset", "stall", "drip", "503", "wrong bytes", "other range", "200"])
def test_a_fault_that_passes_is_survived(fault: Fault, ranges: bool, site: Site, tmp_path: Path) -> None:
    """A server that misbehaves twice, with ranges and without, still delivers."""
    site.ranges = ranges
    site.faults = {"large.bin": [fault, fault] if fault != "wrong bytes" else [fault]}

    fetch(site.url, tmp_path, fault=fault)

    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("fault", ["truncate", "503", "403", "wrong bytes"])
def test_a_fault_that_stays_is_one_error_and_costs_nothing_else(fault: Fault, site: Site, tmp_path: Path) -> None:
    """Both unavailable files are named, all others arrive, and no wrong file has its name."""
    broken = ["large.bin", "sub/other.bin"]
    site.faults, site.always = {name: [fault] for name in broken}, True

    with pytest.raises(DataError) as caught:
        fetch(site.url, tmp_path)

    assert [str(caught.value).count(f"{site.url}/{name}") for name in broken] == [1, 1]
    here = {name: data for name, data in contents(tmp_path).items() if not name.startswith(WORK)}
    assert here == {name: data for name, data in FILES.items() if name not in broken}
    assert not (tmp_path / FILE_NAME).exists()


def test_each_try_that_fails_is_told(site: Site, tmp_path: Path) -> None:
    """Waiting for a server is never silent: a line says what it did, and when it is tried again."""
    told: list[str] = []
    site.faults = {"large.bin": ["503", "503"]}

    fetch(site.url, tmp_path, replace(SETTINGS, connections=1, patience=replace(SETTINGS.patience, notice=told.append)))

    assert told == [f"{site.url}/large.bin: 503 Service Unavailable; try {n} of 3 in 0.0 s" for n in (2, 3)]


@pytest.mark.parametrize("fault", ["drip", "drip headers"])
def test_a_server_that_drips_is_not_waited_for(fault: Fault, site: Site, tmp_path: Path) -> None:
    """A byte now and then, of headers or file, keeps a connection no longer than silence does."""
    told: list[str] = []
    site.faults = {"large.bin": [fault]}

    patience = replace(SETTINGS.patience, notice=told.append)
    fetch(site.url, tmp_path, replace(SETTINGS, patience=patience), fault=fault)

    assert re.search(r"large\.bin: \d+ bytes in \d+ s", "\n".join(told))


def test_wrong_bytes_are_fetched_again_and_then_shown_beside_the_right_checksum(site: Site, tmp_path: Path) -> None:
    """The error holds both checksums that came and the one expected."""
    site.files = {**site.files, "empty": b"", "sub/.hidden": b"yx"}

    with pytest.raises(DataError) as caught:
        fetch(site.url, tmp_path)

    came, expected = (hashlib.sha256(text).hexdigest() for text in (b"yx", b"xy"))
    assert f"has sha256 {came}, and {came} when fetched again; expected {expected}" in str(caught.value)
    assert [name for name, _ in site.requests].count("sub/.hidden") == 2


def test_missing_files_are_all_named_before_anything_is_fetched(site: Site, tmp_path: Path) -> None:
    """Two files that answer 404 are two lines of one error."""
    site.files = {name: data for name, data in site.files.items() if not name.startswith("sub/")}

    with pytest.raises(DataError) as caught:
        fetch(site.url, tmp_path)

    assert str(caught.value).splitlines() == [
        f"{site.url}/sub/{name}: 404 Not Found" for name in ("other.bin", ".hidden")
    ]
    assert {name for name, _ in site.requests} == {FILE_NAME}


def test_wrong_lengths_are_all_named_before_anything_is_fetched(site: Site, tmp_path: Path) -> None:
    """Both lengths are in the line of each file."""
    site.files = {**site.files, "large.bin": b"short", "empty": b"long"}

    with pytest.raises(DataError) as caught:
        fetch(site.url, tmp_path)

    assert str(caught.value).splitlines() == [
        f"{site.url}/large.bin has 5 bytes at the source, expected {len(_CONTENT)}",
        f"{site.url}/empty has 4 bytes at the source, expected 0",
    ]


def test_a_full_disk_is_refused_with_its_numbers(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free and needed bytes are compared before anything is fetched."""
    needed = sum(map(len, FILES.values()))
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((1, 1, 9, 9, needed - 1, 0, 0, 0, 0, 255)))

    with pytest.raises(
        DataError, match=rf"{needed - 1} bytes \(.*\) free, .* takes {needed} \(.*1 \(1 byte\) are missing"
    ):
        fetch(site.url, tmp_path)


def test_a_download_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    """The next call does not fetch segments that arrived before an error."""
    site.faults = {"large.bin": [None, None, "403"]}
    with pytest.raises(DataError, match="403"):
        fetch(site.url, tmp_path, replace(SETTINGS, connections=1))
    before = len(site.requests)

    fetch(site.url, tmp_path)

    again = {wanted for name, wanted in site.requests[before:] if name == "large.bin"}
    arrived = {f"bytes={start}-{start + SEGMENT_BYTES - 1}" for start in (0, SEGMENT_BYTES)}
    assert again
    assert again.isdisjoint(arrived)
    assert contents(tmp_path) == FILES


def test_another_version_is_not_mixed_into_what_is_there(site: Site, tmp_path: Path) -> None:
    """Segments of a file that has changed at the server since are fetched anew, checksum or not."""
    names = PublishedFiles(files=FileSet(about="test set", sizes={"large.bin": len(_CONTENT)}))
    site.files, site.faults = {"large.bin": _CONTENT}, {"large.bin": ["403"]}
    with pytest.raises(DataError, match="403"):
        fetch(site.url, tmp_path, published=names)
    site.files, site.etag = {"large.bin": _CONTENT[::-1]}, '"2"'

    fetch(site.url, tmp_path, published=names)

    assert contents(tmp_path) == {"large.bin": _CONTENT[::-1]}


def test_what_is_there_is_fetched_again_only_where_it_is_wrong(site: Site, tmp_path: Path) -> None:
    """A second call asks for no content but that of the file with a changed byte."""
    fetch(site.url, tmp_path)
    (tmp_path / "sub/other.bin").write_bytes(_CONTENT)
    before = len(site.requests)

    fetch(site.url, tmp_path)

    assert {name for name, _ in site.requests[before:]} == {FILE_NAME, "sub/other.bin"}
    assert contents(tmp_path) == FILES


def test_a_disk_that_fills_up_is_one_error(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a write fails, no other file is tried for long, and the error is the system's."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=rf"{WORK}/bytes/.*: No space left on device"):
        fetch(site.url, tmp_path)


def test_a_listed_name_cannot_be_another_files_journal(tmp_path: Path) -> None:
    """Names that resemble those of unfinished files do not meet them."""
    files = {"a": _CONTENT, "a.segments": _CONTENT, "bytes": _CONTENT, "segments/a": _CONTENT}
    with serve(Site(with_manifest(files))) as site:
        fetch(site.url, tmp_path)

    assert contents(tmp_path) == files


def test_a_folder_takes_one_download_at_a_time(site: Site, tmp_path: Path) -> None:
    """While one is running, a second into its folder is refused."""
    site.pieces = 1
    command = [sys.executable, "-m", "harness", "data", "download", site.url, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as first:
        wait_until(lambda: len(site.requests) > 1, [first.pid], "a request")
        with pytest.raises(DataError, match=r"another download into .* is running"):
            fetch(site.url, tmp_path)
        site.pieces = float("inf")
        first.communicate()
    assert first.returncode == 0


def test_a_folder_keeps_to_one_set(site: Site, tmp_path: Path) -> None:
    """Files of another manifest are not shadowed by a new one."""
    manifest_of({"weights": b""}).save(tmp_path)

    with pytest.raises(DataError, match="already holds other files"):
        fetch(site.url, tmp_path)


# MLCommons' own layout.

VALIDATION = "c4-validation-91205-samples.en_text_document"
BUCKET = {
    f"{VALIDATION}.bin/c4-validationn-91205-samples.en_text_document.bin": b"tokens",
    f"{VALIDATION}.idx/c4-validationn-91205-samples.en_text_document.idx": b"index",
    "c4-train.en_0_text_document.bin": b"not in the benchmark",
    "c4-train.en_6_text_document.bin": b"train",
}
SMALL = PublishedFiles(
    files=FileSet(
        about="test set",
        sizes={f"{VALIDATION}.bin": 6, f"{VALIDATION}.idx": None, "c4-train.en_6_text_document.bin": 5},
    )
)


@pytest.fixture
def bucket() -> Iterator[Site]:
    """A server with `metadata/c4.uri`, its list, and the files elsewhere, in the published layout."""
    sums = "".join(f"{hashlib.md5(data).hexdigest()}  ./{name}\n" for name, data in BUCKET.items())
    with serve(Site({})) as site:
        site.files = {
            "metadata/c4.uri": f"{site.url}/deep/c4\n".encode(),
            "metadata/c4.md5": sums.encode(),
            **{f"deep/c4/{name}": data for name, data in BUCKET.items()},
        }
        yield site


def test_the_published_layout_arrives_repaired(bucket: Site, tmp_path: Path) -> None:
    """The benchmark's files in the .uri's list arrive under their right names, with the list's MD5 recorded."""
    fetch(f"{bucket.url}/metadata/c4.uri", tmp_path, published=SMALL)

    assert contents(tmp_path) == {
        f"{VALIDATION}.bin": b"tokens",
        f"{VALIDATION}.idx": b"index",
        "c4-train.en_6_text_document.bin": b"train",
    }
    entry = FolderManifest.load(tmp_path).files[f"{VALIDATION}.bin"]
    assert entry == FileEntry(bytes=6, md5=hashlib.md5(b"tokens").hexdigest())


def test_without_a_set_all_that_is_listed_arrives(bucket: Site, tmp_path: Path) -> None:
    """The whole list is fetched if nobody names a part of it."""
    fetch(f"{bucket.url}/metadata/c4.uri", tmp_path)

    assert set(contents(tmp_path)) == {*SMALL.sizes, "c4-train.en_0_text_document.bin"}


def test_a_list_without_the_benchmarks_files_is_refused(bucket: Site, tmp_path: Path) -> None:
    """Every file that is missing from the list is named."""
    with pytest.raises(DataError) as caught:
        fetch(f"{bucket.url}/metadata/c4.uri", tmp_path, published=PUBLISHED["llama31_405b"])

    assert str(caught.value).count("does not list ") == 3


@pytest.mark.parametrize("text", [b"", b"<html>log in</html>", b"../elsewhere", b"https://a/b c"])
def test_a_uri_file_that_holds_no_address_is_refused(text: bytes, bucket: Site, tmp_path: Path) -> None:
    """The error shows what it holds instead."""
    bucket.files = {**bucket.files, "metadata/c4.uri": text}

    with pytest.raises(DataError, match="expected the base address of the files"):
        fetch(f"{bucket.url}/metadata/c4.uri", tmp_path)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        (f"{VALIDATION}.bin/c4-validationn-91205-samples.en_text_document.bin", f"{VALIDATION}.bin"),
        ("validation/c4-validationn-91205-samples.en_text_document.idx", f"{VALIDATION}.idx"),
        ("c4-validationn-91205-samples.en_text_document.idx", f"{VALIDATION}.idx"),
        (f"{VALIDATION}.bin", f"{VALIDATION}.bin"),
        ("c4-train.en_6_text_document.bin", "c4-train.en_6_text_document.bin"),
        (
            "c4-validationn-91205-samples.en_text_document.bin.md5",
            "c4-validationn-91205-samples.en_text_document.bin.md5",
        ),
    ],
)
def test_names_of_the_published_layout(name: str, right: str) -> None:
    """Misspelt and nested names get the benchmark's; no other name changes."""
    assert repaired_name(name) == right


# Strangers' input.


@pytest.mark.parametrize(
    "name", ["../out", "/etc/out", "a/../../out", "a//b", "", ".", "a\\b", "a\0b", "a\nb", "a/", "\udce9"]
)
def test_a_name_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    """A manifest that lists one is not accepted."""
    text = json.dumps({"files": {name: {"bytes": 1}}})
    (tmp_path / FILE_NAME).write_text(text)

    with pytest.raises(DataError, match="is not a manifest"):
        FolderManifest.load(tmp_path)


@given(st.text(max_size=30))
def test_a_name_that_is_accepted_is_below_the_folder(name: str) -> None:
    """Whatever the name, the path that it gives has the folder above it, and no other name means the same."""
    try:
        checked_name(name)
    except ValueError:
        return
    path = os.path.normpath(f"/folder/{name}")
    assert path == f"/folder/{name}"


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, site: Site) -> None:
    """A folder that is a link to another place gets no files through it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here/sub").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DataError, match=r"here/sub leads out of .*here"):
        fetch(site.url, tmp_path / "here")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", [FILE_NAME, f"{WORK}/x"])
def test_the_downloads_own_names_cannot_be_listed(name: str, tmp_path: Path) -> None:
    """A list cannot overwrite the manifest or the unfinished files."""
    with serve(Site({})) as site:
        sums = f"{hashlib.md5(b'').hexdigest()}  {name}\n"
        site.files = {"m.uri": f"{site.url}/b".encode(), "m.md5": sums.encode(), f"b/{name}": b""}
        with pytest.raises(DataError, match="is a name that the download itself uses"):
            fetch(f"{site.url}/m.uri", tmp_path)


def test_faults_of_an_md5_list_are_named_by_line() -> None:
    """Every bad line is one line of the error."""
    text = f"{'0' * 32}  good\n{'1' * 32}  good\nno digest\n{'0' * 32}  ../x\n"

    with pytest.raises(DataError) as caught:
        parse_md5sums(text.encode(), "list")
    assert str(caught.value).splitlines() == [
        "list, line 2: good is listed twice",
        "list, line 3: 'no digest' is not a line of an MD5 list",
        "list, line 4: '../x' is not a path below a folder",
    ]


@given(st.dictionaries(st.from_regex(r"\w[\w .*-]{,9}(/\w+)?", fullmatch=True), st.binary(), min_size=1))
def test_an_md5_list_is_read_as_md5sum_writes_it(files: dict[str, bytes]) -> None:
    """Names and digests come back, with and without ./ before the name."""
    sums = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    for form in ("{}  {}\n", "{} *{}\n", "{}  ./{}\n"):
        text = "".join(form.format(digest, name) for name, digest in sums.items())
        assert parse_md5sums(text.encode(), "list") == sums


@pytest.mark.parametrize("page", [b"", b"<html>\n<body>\nlog in\n</body>\n</html>\n"])
def test_a_page_is_no_md5_list(page: bytes) -> None:
    """A list without a single valid line is one line of an error, however long it is."""
    with pytest.raises(DataError) as caught:
        parse_md5sums(page, "list")
    assert str(caught.value) == f"list is not an MD5 list: it starts with {page!r}"


def test_a_file_in_another_coding_is_refused(site: Site, tmp_path: Path) -> None:
    """A server that packs files on the way cannot be asked for parts of them; the error says so, and not a checksum."""
    site.coding = "gzip"

    with pytest.raises(DataError, match=r"manifest\.json: the server sends it as gzip, asked for the file as it is"):
        fetch(site.url, tmp_path)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:1/x", "http://[half/x", "http://127.0.0.1:port/x"])
def test_a_redirect_to_no_http_address_is_refused(address: str, site: Site, tmp_path: Path) -> None:
    """One error, at once, that names the file that was asked for."""
    site.redirects = {FILE_NAME: address}

    with pytest.raises(DataError, match=rf"{site.url}/{FILE_NAME} .*leads to") as caught:
        fetch(site.url, tmp_path)
    assert "gave up" not in str(caught.value)


def test_a_server_that_names_a_folder_of_this_machine_is_refused(site: Site, tmp_path: Path) -> None:
    """A .uri on a server that holds file://... would have local files taken for the data."""
    site.files = {"m.uri": f"file://{tmp_path}".encode(), "m.md5": f"{'0' * 32}  x\n".encode()}

    with pytest.raises(DataError, match=r"m\.uri leads to 'file://.*a server cannot name a folder of this machine"):
        fetch(f"{site.url}/m.uri", tmp_path / "here")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_a_certificate_that_fails_is_refused_at_once(site: Site, tmp_path: Path) -> None:
    """One error says so, without eight tries."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tries = []

        def serve_once() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    tries.append(connection)
                    with suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True):
                        pass

        Thread(target=serve_once, daemon=True).start()
        with pytest.raises(DataError, match="its certificate is not trusted: self-signed certificate"):
            fetch(f"https://127.0.0.1:{listening.getsockname()[1]}", tmp_path / "here")
        listening.shutdown(socket.SHUT_RDWR)
    assert len(tries) == 1


@pytest.mark.parametrize("address", ["http://[half", "http://host:port/", "ftp://host/", "http://"])
def test_a_source_that_is_no_address_is_refused(address: str, tmp_path: Path) -> None:
    """It is refused at once, without eight tries."""
    with pytest.raises(DataError) as caught:
        fetch(address, tmp_path)
    assert address.rstrip("/") in str(caught.value)
    assert "gave up" not in str(caught.value)


def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path: Path) -> None:
    """Errors and notices show addresses, so a password in one is refused."""
    with pytest.raises(DataError, match="holds a password; give a header") as caught:
        fetch("https://me:hunter2@127.0.0.1/", tmp_path)
    assert "hunter2" not in str(caught.value)


def test_a_name_that_the_disk_cannot_hold_is_one_line_of_the_error(tmp_path: Path) -> None:
    """It is listed like any other unavailable file."""
    long = "a" * 300
    with serve(Site(with_manifest({long: b"1", "missing": b"2"}))) as site:
        site.files = {name: data for name, data in site.files.items() if name != "missing"}
        with pytest.raises(DataError) as caught:
            fetch(site.url, tmp_path)

    assert [line.rpartition(": ")[2] for line in str(caught.value).splitlines()] == [
        os.strerror(errno.ENAMETOOLONG),
        "404 Not Found",
    ]


def test_a_login_page_is_no_file(site: Site, tmp_path: Path) -> None:
    """For a redirect to MLCommons' login, the error says what to give."""
    site.redirects = {FILE_NAME: "https://mlcommons.cloudflareaccess.com/cdn-cgi/access/login/x"}

    with pytest.raises(DataError, match=r"behind a login .*; give .* --headers"):
        fetch(site.url, tmp_path)


def test_headers_stay_with_their_host(site: Site) -> None:
    """A redirect to another host is followed without the headers that were meant for the first."""
    with serve(Site({FILE_NAME: with_manifest(FILES)[FILE_NAME]})) as other:
        site.redirects = {FILE_NAME: f"{other.url}/{FILE_NAME}"}
        listing(site.url, headers={"X-Secret": "s"})

        assert [headers.get("X-Secret") for headers in (*site.headers, *other.headers)] == ["s", None]


def test_a_secret_in_a_malformed_headers_file_is_not_shown() -> None:
    """The error gives the line's number alone."""
    assert parse_headers(["CF-Access-Client-Id: a.b\n", "\n"]) == {"CF-Access-Client-Id": "a.b"}
    with pytest.raises(DataError, match=r"^line 1 of the headers is not of the form `Name: value`$"):
        parse_headers(["hunter2"])


# The command, and what kills it.


def test_the_command_says_what_it_did(site: Site, tmp_path: Path) -> None:
    """It exits 0 with one line on files, size and what was compared."""
    done = CliRunner().invoke(main, ["download", site.url, str(tmp_path)])

    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}: 5 files, 655.6 kB, sha256 as listed\n")


def test_a_journal_cut_anywhere_claims_nothing_new(tmp_path: Path) -> None:
    """Whatever byte a power failure stopped at, the segments listed then and later are some that were complete."""

    def opened() -> Partial:
        return Partial(tmp_path / "data", tmp_path / "journal", size=200, segment_bytes=1, version="1")

    with opened() as arriving:
        for index in (10, 117, 5):
            arriving.complete(arriving.segments[index])
    journal = (tmp_path / "journal").read_bytes()
    for length in range(len(journal) + 1):
        (tmp_path / "journal").write_bytes(journal[:length])
        with opened() as arriving:
            arriving.complete(arriving.segments[7])
        with opened() as arriving:
            assert {7} <= arriving.done <= {7, 10, 117, 5}


def test_zeros_in_a_journal_claim_nothing(tmp_path: Path) -> None:
    """Zeros that a power failure leaves are skipped, and so is what follows them."""

    def opened() -> Partial:
        return Partial(tmp_path / "data", tmp_path / "journal", size=9, segment_bytes=1, version="1")

    with opened() as arriving:
        arriving.complete(arriving.segments[3])
    with (tmp_path / "journal").open("ab") as journal:
        journal.write(b"\0\0\n\0\0\0")

    for _ in range(2):
        with opened() as arriving:
            assert arriving.done == {3}
            arriving.complete(arriving.segments[3])


class Died(BaseException):
    """Stands for the end of the process."""


IN_SEGMENTS = """
import sys
from pathlib import Path
from threading import Thread
from reference_impl.data.fetch.download import Settings, download_set
from reference_impl.data.fetch.listing import listing
download_set(listing(sys.argv[1]), Path(sys.argv[2]), settings=Settings(segment_bytes=int(sys.argv[3])))
"""


def kill(folder: Path, site: Site, pieces: int) -> None:
    """Start a download, and kill it once so many pieces are sent, whatever it does with them."""
    site.pieces = pieces
    command = [sys.executable, "-c", IN_SEGMENTS, site.url, str(folder), str(SEGMENT_BYTES)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        wait_until(lambda: site.pieces <= 0, [process.pid], "so many pieces")
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was done before it was killed"


@pytest.mark.parametrize(
    "last_act",
    [(Partial, "complete"), (Partial, "move_to"), (Path, "unlink"), (shutil, "rmtree"), (FolderManifest, "save")],
)
def test_a_download_that_dies_at_an_awkward_moment_goes_on(
    last_act: tuple[object, str], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before listing a segment, renaming a file, removing journal or work folder, or writing the manifest."""

    def die(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(*last_act, die)
        with pytest.raises(Died):
            fetch(site.url, tmp_path)
    fetch(site.url, tmp_path)

    assert contents(tmp_path) == FILES
    assert FolderManifest.load(tmp_path) == manifest_of(FILES)


def test_a_killed_download_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """After SIGKILL at random points the next call fetches only what is lacking, and leaves nothing else."""
    files = {f"{index}.bin": random.Random(index).randbytes(120 * SEGMENT_BYTES + index) for index in range(4)}
    draw = random.Random(1)
    # Some segments arrive, and some are lacking whatever was sent before the kills.
    with serve(Site(with_manifest(files))) as site:
        for _ in range(5):
            kill(tmp_path, site, pieces=draw.randint(20, 60))
        site.pieces = float("inf")
        before = len(site.requests)
        fetch(site.url, tmp_path)

    assert contents(tmp_path) == files
    assert sorted(path.name for path in tmp_path.iterdir()) == [*sorted(files), FILE_NAME]
    assert len(site.requests) - before < 4 * 121


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("9" * 12, LONGEST_RETRY_AFTER_S), ("tomorrow", 0.0), (None, 0.0)]
)
def test_an_overloaded_server_is_left_alone_as_long_as_it_asks(header: str | None, seconds: float) -> None:
    """It is, within reason; without a readable request the pause is the usual one."""
    answer = urllib3.HTTPResponse(status=503, headers={} if header is None else {"Retry-After": header})
    asked = _retry_after(answer)
    assert asked == seconds
    patience = RetryPolicy(tries=3, first_wait_s=0.01, longest_wait_s=0.02)
    assert patience.pause_s(TransferInterruptedError("busy", asked), 1) == pytest.approx(
        max(seconds, 0.0075), abs=0.0026
    )
