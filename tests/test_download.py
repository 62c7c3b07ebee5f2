"""Downloads, against a local web server that misbehaves in every way that was thought of."""

import errno
import gzip
import hashlib
import importlib.util
import io
import os
import re
import stat
import struct
import tarfile
import threading
import zipfile
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from test_ramp2018 import Array

from acdc import archives, download
from acdc.archives import unpack
from acdc.download import RemoteFile, Source, fetch, load_manifest
from acdc.errors import DataError, DownloadError
from acdc.tracks.craters.tiles import read_images, read_targets

CONTENT = np.random.default_rng(1).bytes(5 * download.CHUNK // 2)
OTHER = np.random.default_rng(2).bytes(len(CONTENT))
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Answer:
    """What the server does with one request: an honest file server unless told otherwise."""

    def __init__(
        self,
        content=CONTENT,
        *,
        status=200,
        etag='"v1"',
        modified=None,
        ranges=True,
        if_range=True,
        cut=None,
        length=True,
        shift=0,
        pause=0.0,
        headers=(),
    ):
        self.content, self.status, self.etag, self.modified = content, status, etag, modified
        self.ranges, self.if_range, self.cut, self.length = ranges, if_range, cut, length
        self.shift, self.pause, self.headers = shift, pause, headers

    def __call__(self, handler):
        start, status = 0, self.status
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        validator = handler.headers.get("If-Range")
        same = not self.if_range or validator in (None, self.etag, self.modified)
        if asked and self.ranges and same and status == 200:
            start = int(asked[1]) + self.shift
            status = 206 if start < len(self.content) else 416
        body = b"" if status == 416 else self.content[start:]
        handler.send_response(status)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.modified:
            handler.send_header("Last-Modified", self.modified)
        if status == 206:
            last = len(self.content) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(self.content)}")
        if self.length is not None:
            said = len(body) if self.length is True else self.length
            handler.send_header("Content-Length", str(said))
        for name, value in self.headers:
            handler.send_header(name, value)
        handler.end_headers()
        body = body if self.cut is None else body[: self.cut]
        for i in range(0, len(body), 1 << 18):
            handler.wfile.write(body[i : i + (1 << 18)])
            handler.server.stop.wait(self.pause)


def error(status, **headers):
    return Answer(b"sorry", status=status, headers=[*headers.items()])


@pytest.fixture
def server():
    """A web server: each request takes the next answer of `.plan`, then the `.usual` one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests.append(dict(self.headers) | {"path": self.path})
            answer = self.server.plan.pop(0) if self.server.plan else self.server.usual
            answer(self)

        def log_message(self, *arguments):
            pass

    class QuietServer(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # the client hangs up on purpose in some tests

    web = QuietServer(("127.0.0.1", 0), Handler)
    web.plan, web.usual, web.requests, web.stop = [], Answer(), [], threading.Event()
    web.address = f"http://127.0.0.1:{web.server_address[1]}"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    web.stop.set()
    web.shutdown()
    web.server_close()
    thread.join()


def source_of(server, name="data.bin", size=None, checksum=None, unpack=False, tried=False):
    file = RemoteFile(name, f"{server.address}/{name}", size, checksum, unpack)
    return Source("test", "Title", "Citation", "Licence", (file,), tried, "", "Offline: simulate.")


def get(source, folder, **options):
    options = {"progress": False, "backoff": 0.001, "timeout": 2.0} | options
    return fetch(source, folder, **options)[source.files[0].name]


def only(folder, *names):
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


# -- honest servers


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_a_file_arrives_and_is_used_again(server, tmp_path, checksum):
    source = source_of(server, size=len(CONTENT), checksum=checksum)
    path = get(source, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "data.bin"
    assert path.read_bytes() == CONTENT
    only(path.parent, "data.bin")
    assert get(source, path.parent) == path
    assert len(server.requests) == 1
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_an_unknown_checksum_is_recorded_and_compared_later(server, tmp_path):
    path = get(source_of(server), tmp_path)
    only(tmp_path, "data.bin", "data.bin.sha256")
    recorded = (tmp_path / "data.bin.sha256").read_text()
    assert recorded == f"{SHA256[7:]}  data.bin\n"  # what `sha256sum --check` reads
    path.write_bytes(OTHER)
    with pytest.raises(DownloadError, match=r"data\.bin has checksum .* Move or delete"):
        get(source_of(server), tmp_path)
    assert path.read_bytes() == OTHER  # the user's file is the user's

    path.unlink()
    server.usual = Answer(OTHER)
    with pytest.raises(DownloadError, match=r"publisher has replaced the file, delete .*sha256"):
        get(source_of(server), tmp_path)
    only(tmp_path, "data.bin.sha256")


def test_a_damaged_record_is_refused(server, tmp_path):
    get(source_of(server), tmp_path)
    (tmp_path / "data.bin.sha256").write_text("what?")
    with pytest.raises(DownloadError, match="holds no sha256"):
        get(source_of(server), tmp_path)


def test_a_file_fetched_by_hand_is_verified_and_used(server, tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    source = source_of(server, size=len(CONTENT), checksum=SHA256)
    assert get(source, tmp_path) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=f"has {len(CONTENT) - 1} bytes, expected"):
        get(source, tmp_path)
    assert not server.requests


def test_empty_file(server, tmp_path):
    server.usual = Answer(b"")
    assert get(source_of(server, size=0), tmp_path).read_bytes() == b""


def test_redirects_are_followed_with_the_range(server, tmp_path):
    def move(handler):
        handler.send_response(302)
        handler.send_header("Location", "/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.plan = [move, Answer(cut=1 << 20), move, Answer()]
    assert get(source_of(server, checksum=SHA256), tmp_path).read_bytes() == CONTENT
    assert [request["path"] for request in server.requests] == ["/data.bin", "/elsewhere"] * 2
    assert server.requests[3]["Range"] == f"bytes={1 << 20}-"


def test_a_redirect_never_leaves_https():
    request = download.urllib.request.Request("https://example.org/a")
    with pytest.raises(OSError, match="insecure"):
        download._NoDowngrade().redirect_request(request, None, 302, "", {}, "http://example.org/a")


def test_slow_servers_have_time(server, tmp_path):
    server.usual = Answer(pause=0.02)
    assert get(source_of(server), tmp_path, timeout=1.0).read_bytes() == CONTENT


def test_progress_bar(server, tmp_path, capsys):
    get(source_of(server), tmp_path, progress=True)
    assert "data.bin" in capsys.readouterr().err


# -- broken connections


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["etag", "date"])
def test_cut_connections_are_continued(server, tmp_path, kind, known):
    date = formatdate(0, usegmt=True)
    validator = {"etag": '"v1"'} if kind == "etag" else {"etag": None, "modified": date}
    server.plan = [Answer(cut=cut, **validator) for cut in (700_000, 0, 900_000)]
    server.usual = Answer(**validator)
    source = source_of(server, checksum=SHA256 if known else None)
    assert get(source, tmp_path).read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [
        None,
        "bytes=700000-",
        "bytes=700000-",
        "bytes=1600000-",
    ]
    assert server.requests[1]["If-Range"] == ('"v1"' if kind == "etag" else date)


def test_the_next_call_continues(server, tmp_path):
    server.usual = Answer(cut=1_000_000)
    with pytest.raises(DownloadError, match="1000000 bytes are kept"):
        get(source_of(server), tmp_path, retries=0)
    only(tmp_path, "data.bin.part", "data.bin.part.json")
    server.usual = Answer()
    assert get(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == "bytes=1000000-"
    only(tmp_path, "data.bin", "data.bin.sha256")


def test_a_complete_part_needs_no_request(server, tmp_path):
    server.usual = Answer(cut=1_000_000)
    with pytest.raises(DownloadError):
        get(source_of(server), tmp_path, retries=0)
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert get(source_of(server), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_without_validator_and_checksum_it_starts_anew(server, tmp_path):
    server.plan = [Answer(etag=None, cut=1_000_000)]
    server.usual = Answer(etag=None)
    assert get(source_of(server), tmp_path).read_bytes() == CONTENT
    assert "Range" not in server.requests[1]


def test_weak_etags_are_no_validator(server, tmp_path):
    server.plan = [Answer(etag='W/"v1"', cut=1_000_000)]
    assert get(source_of(server), tmp_path).read_bytes() == CONTENT
    assert "Range" not in server.requests[1]


def test_a_server_that_ignores_ranges(server, tmp_path):
    server.plan = [Answer(cut=1_000_000), Answer(ranges=False)]
    assert get(source_of(server), tmp_path).read_bytes() == CONTENT
    assert server.requests[1]["Range"] == "bytes=1000000-"


def test_a_file_that_changed_in_between(server, tmp_path):
    server.plan = [Answer(cut=1_000_000)]
    server.usual = Answer(OTHER, etag='"v2"')
    assert get(source_of(server), tmp_path).read_bytes() == OTHER


def test_a_changed_file_from_a_server_that_ignores_if_range(server, tmp_path):
    server.plan = [Answer(cut=1_000_000)]
    server.usual = Answer(OTHER, etag='"v2"', if_range=False)
    assert get(source_of(server), tmp_path).read_bytes() == OTHER


def test_a_changed_file_that_kept_its_etag_but_not_its_length(server, tmp_path):
    server.plan = [Answer(cut=1_000_000)]
    server.usual = Answer(OTHER + b"more")
    assert get(source_of(server), tmp_path).read_bytes() == OTHER + b"more"


def test_pieces_of_two_versions_do_not_pass_the_checksum(server, tmp_path):
    # no validator at all: only the checksum can tell, and it makes a whole new download
    server.plan = [Answer(OTHER, etag=None, cut=1_000_000)]
    server.usual = Answer(etag=None)
    assert get(source_of(server, checksum=SHA256), tmp_path).read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, "bytes=1000000-", None]


def test_a_server_that_continues_from_another_byte(server, tmp_path):
    server.plan = [Answer(cut=1_000_000), Answer(shift=-1)]
    assert get(source_of(server), tmp_path).read_bytes() == CONTENT
    assert "Range" not in server.requests[2]


def test_a_part_longer_than_the_file_starts_anew(server, tmp_path):
    # the length was never told, so the part cannot be known to be too long before the server says
    source = source_of(server, checksum=SHA256)
    server.plan = [Answer(length=None, cut=1_000_000)]
    with pytest.raises(DownloadError, match="checksum"):
        get(source, tmp_path, retries=0)
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "data.bin.part.json").write_text(f'{{"url": "{source.files[0].url}"}}')
    assert get(source, tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_address_or_with_damaged_notes_starts_anew(server, tmp_path):
    for notes in ('{"url": "http://example.org", "validator": "\\"v1\\""}', "{", None):
        (tmp_path / "data.bin.part").write_bytes(OTHER[:1000])
        if notes is not None:
            (tmp_path / "data.bin.part.json").write_text(notes)
        path = get(source_of(server, checksum=SHA256), tmp_path)
        assert path.read_bytes() == CONTENT
        assert "Range" not in server.requests.pop()
        assert not server.requests
        path.unlink()


def test_attempts_are_bounded_but_progress_counts(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 1 << 16)
    server.usual = Answer(cut=200_000)  # more cuts than retries, each after progress
    assert get(source_of(server), tmp_path, retries=1).read_bytes() == CONTENT
    server.requests.clear()
    # always anew, always cut at the same place: no progress after the first attempt
    server.usual = Answer(cut=200_000, ranges=False)
    (tmp_path / "data.bin").unlink()
    with pytest.raises(DownloadError, match="ended after 200000 of"):
        get(source_of(server), tmp_path, retries=3)
    assert len(server.requests) == 4


def test_waits_grow_and_obey_the_server_up_to_a_limit(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server.plan = [error(503), error(429, **{"Retry-After": "7"}), error(500)]
    server.plan += [error(503, **{"Retry-After": "999999"}), error(502)]
    assert get(source_of(server), tmp_path, backoff=1.0).read_bytes() == CONTENT
    assert waits == [1.0, 7.0, 4.0, 60.0, 16.0]


def test_not_found_is_not_tried_again(server, tmp_path):
    server.usual = error(404)
    with pytest.raises(DownloadError, match="404") as caught:
        get(source_of(server), tmp_path)
    assert len(server.requests) == 1
    message = str(caught.value)
    assert str(tmp_path / "data.bin") in message and "by hand" in message
    assert "has not been tried" in message and message.endswith("Offline: simulate.")
    with pytest.raises(DownloadError) as caught:
        get(source_of(server, tried=True), tmp_path)
    assert "has not been tried" not in str(caught.value)


def test_silent_servers_time_out(server, tmp_path):
    server.usual = lambda handler: handler.server.stop.wait(5)
    with pytest.raises(DownloadError, match="timed out"):
        get(source_of(server), tmp_path, timeout=0.05, retries=1)
    assert len(server.requests) == 2


def test_a_server_that_talks_nonsense(server, tmp_path):
    server.plan = [lambda handler: handler.wfile.write(b"hello\r\n\r\n"), lambda handler: None]
    assert get(source_of(server), tmp_path).read_bytes() == CONTENT


def test_refused_connections_are_tried_again_then_told(server, tmp_path):
    source = source_of(server)
    server.server_close()
    with pytest.raises(DownloadError, match=r"no connection .*refused.*Offline: simulate\.$"):
        get(source, tmp_path, retries=2)


def test_without_network_nobody_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("waited"))

    def no_name(*arguments, **options):
        raise download.socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(download.socket, "getaddrinfo", no_name)
    file = RemoteFile("data.bin", "http://example.org/data.bin", None, None)
    source = Source("test", "", "", "", (file,), False, "", "Offline: simulate.")
    with pytest.raises(DownloadError, match=r"no connection .*name resolution.*Offline: simulate"):
        get(source, tmp_path)
    only(tmp_path)


# -- lies


@pytest.mark.parametrize("change", [-1, 1])
def test_another_size_than_the_manifest_says_is_refused_at_once(server, tmp_path, change):
    with pytest.raises(DownloadError, match=f"offers {len(CONTENT)} bytes, expected are"):
        get(source_of(server, size=len(CONTENT) + change), tmp_path)
    assert len(server.requests) == 1
    only(tmp_path)


def test_a_length_that_is_announced_too_long(server, tmp_path):
    server.usual = Answer(length=len(CONTENT) + 1000, ranges=False)
    with pytest.raises(DownloadError, match=f"ended after {len(CONTENT)} of {len(CONTENT) + 1000}"):
        get(source_of(server), tmp_path, retries=1)
    assert not (tmp_path / "data.bin").exists()


def test_a_length_that_is_announced_too_short(server, tmp_path):
    server.usual = Answer(length=1000)
    with pytest.raises(DownloadError, match="what arrived has checksum"):
        get(source_of(server, checksum=SHA256), tmp_path)
    only(tmp_path)


def test_no_length_at_all(server, tmp_path):
    server.usual = Answer(length=None)
    with pytest.raises(DownloadError, match="a cut would go unnoticed"):
        get(source_of(server), tmp_path)
    only(tmp_path)
    for source in (source_of(server, size=len(CONTENT)), source_of(server, checksum=SHA256)):
        get(source, tmp_path).unlink()
        (tmp_path / "data.bin.sha256").unlink(missing_ok=True)
    server.plan = [Answer(length=None, cut=1_000_000)]
    assert get(source_of(server, size=len(CONTENT)), tmp_path).read_bytes() == CONTENT
    server.usual = Answer(CONTENT + b"more", length=None)
    (tmp_path / "data.bin").unlink()
    with pytest.raises(DownloadError, match="sends more than"):
        get(source_of(server, size=len(CONTENT)), tmp_path)


def test_chunked_transfer(server, tmp_path):
    def chunked(content):
        def answer(handler):
            handler.protocol_version = "HTTP/1.1"
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(content)

        return answer

    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    server.plan = [chunked(whole[:-5]), chunked(whole)]
    assert get(source_of(server), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_corrupted_bytes_never_get_the_final_name(server, tmp_path):
    wrong = bytearray(CONTENT)
    wrong[1234] ^= 1
    server.usual = Answer(bytes(wrong))
    source = source_of(server, size=len(CONTENT), checksum=SHA256)
    with pytest.raises(DownloadError, match=f"what arrived has checksum .* manifest says {SHA256}"):
        get(source, tmp_path)
    only(tmp_path)
    server.usual = Answer()
    assert get(source, tmp_path).read_bytes() == CONTENT


def test_web_pages_and_compressed_transfers_are_no_data(server, tmp_path):
    server.usual = Answer(b"<html>Log in", headers=[("Content-Type", "text/html; charset=utf-8")])
    with pytest.raises(DownloadError, match="a web page came"):
        get(source_of(server), tmp_path)
    server.usual = Answer(headers=[("Content-Encoding", "gzip")])
    with pytest.raises(DownloadError, match="sends it as gzip"):
        get(source_of(server), tmp_path)
    only(tmp_path)


# -- disks


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download._Fetch, "_discard", lambda self: None)  # keeps the link below
    (tmp_path / "data.bin.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"disk is full: data\.bin does not fit"):
        get(source_of(server), tmp_path)


def test_a_disk_that_fills_up_while_unpacking(server, tmp_path, monkeypatch):
    def fill_up(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives, "_write", fill_up)
    server.usual = Answer(zip_bytes(*GOOD))
    with pytest.raises(DownloadError, match=r"disk is full: d\.zip does not fit"):
        get(source_of(server, "d.zip", unpack=True), tmp_path)
    only(tmp_path, "d.zip", "d.zip.sha256")


def test_too_little_room_is_told_before_the_transfer(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"1000 bytes free; the file has"):
        get(source_of(server, size=len(CONTENT)), tmp_path)
    assert not (tmp_path / "data.bin").exists()


def test_a_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "here").write_text("")
    with pytest.raises(DownloadError, match="Cannot make the folder"):
        get(source_of(server), tmp_path / "here")


# -- archives


def zip_bytes(*members, **options):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, content in members:
            file.writestr(name, content)
    return memory.getvalue()


def tar_bytes(*members, mode="w:gz"):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode=mode) as file:
        for info, content in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return memory.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


GOOD = (("a.txt", b"a"), ("folder/b c-1.txt", b"b" * 3000), ("folder/empty", b""))


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("d.zip", zip_bytes(("folder/", b""), *GOOD)),
        ("d.tar", tar_bytes(*GOOD, mode="w:")),
        ("d.tar.gz", tar_bytes(*GOOD)),
        ("d.tgz", tar_bytes(*(("./" + n, c) for n, c in GOOD))),
        ("d.tar.bz2", tar_bytes(*GOOD, mode="w:bz2")),
        ("d.tar.xz", tar_bytes(*GOOD, mode="w:xz")),
    ],
)
def test_archives_are_fetched_unpacked_and_used_again(server, tmp_path, name, packed):
    server.usual = Answer(packed)
    source = source_of(server, name, unpack=True)
    folder = get(source, tmp_path)
    assert folder == tmp_path / f"{name}.unpacked"
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found.pop(".archive").decode() == "sha256:" + hashlib.sha256(packed).hexdigest()
    assert found == dict(GOOD)
    only(tmp_path, name, f"{name}.sha256", f"{name}.unpacked")

    (folder / "mark").touch()  # an unpacked folder is not unpacked again
    get(source, tmp_path)
    (tmp_path / name).unlink()  # ... even when the archive was deleted to save space
    get(source, tmp_path)
    assert (folder / "mark").exists() and len(server.requests) == 1


def test_another_archive_replaces_what_was_unpacked(server, tmp_path):
    server.usual = Answer(zip_bytes(*GOOD))
    get(source_of(server, "d.zip", unpack=True), tmp_path)
    for file in ("d.zip", "d.zip.sha256"):
        (tmp_path / file).unlink()
    server.usual = Answer(zip_bytes(("new", b"new")))
    folder = get(source_of(server, "d.zip", unpack=True), tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == [".archive", "new"]


BAD_ZIPS = {
    "outside": (zip_bytes(("../evil", b"x")), "leaves its folder"),
    "inner outside": (zip_bytes(("a/../../evil", b"x")), "leaves its folder"),
    "absolute": (zip_bytes(("/tmp/evil", b"x")), "leaves its folder"),
    "windows": (zip_bytes(("..\\evil", b"x")), "leaves its folder"),
    "drive": (zip_bytes(("C:evil", b"x")), "leaves its folder"),
    "link": (zip_bytes((zip_link("l"), b"/etc/passwd")), "a link or device"),
    "twice": (zip_bytes(("a", b"1"), ("b", b"2")).replace(b"b", b"a"), "'a' twice"),
    "file as folder": (zip_bytes(("a", b"1"), ("a/b", b"2")), "both a file and a folder"),
    "folder as file": (zip_bytes(("a/b", b"1"), ("a", b"2")), "twice, or as both"),
    "cut": (zip_bytes(*GOOD)[:-30], "damaged"),
    "no zip": (b"hello", "damaged"),
    "bomb": (zip_bytes(("zeros", bytes(70 << 20))), "would unpack to more than"),
}


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_hostile_zips(tmp_path, kind):
    packed, reason = BAD_ZIPS[kind]
    check_hostile(tmp_path, "d.zip", packed, reason)


BAD_TARS = {
    "outside": (tar_bytes(("../evil", b"x")), "leaves its folder"),
    "absolute": (tar_bytes(("/tmp/evil", b"x")), "leaves its folder"),
    "symbolic link": (tar_bytes((link("l", "/etc/passwd"), b"")), "a link or device"),
    "link within": (tar_bytes(("a", b"a"), (link("l", "a"), b"")), "a link or device"),
    "write through a link": (
        tar_bytes((link("l", "/tmp"), b""), ("l/evil", b"x")),
        "a link or device",
    ),
    "hard link": (
        tar_bytes((link("l", "/etc/passwd", tarfile.LNKTYPE), b"")),
        "a link or device",
    ),
    "device": (tar_bytes((link("l", "", tarfile.CHRTYPE), b"")), "a link or device"),
    "pipe": (tar_bytes((link("l", "", tarfile.FIFOTYPE), b"")), "a link or device"),
    "twice": (tar_bytes(("a", b"1"), ("a", b"2")), "'a' twice"),
    "cut": (tar_bytes(("a", os.urandom(5000)))[:-2000], "damaged"),
    "no tar": (b"hello" * 1000, "damaged"),
    "bomb": (tar_bytes(("zeros", bytes(70 << 20))), "would unpack to more than"),
    "bomb behind the end": (
        tar_bytes(("a", b"a")) + gzip.compress(bytes(4 << 20)),
        "something behind the end",
    ),
}


@pytest.mark.parametrize("kind", BAD_TARS)
def test_hostile_tars(tmp_path, kind):
    packed, reason = BAD_TARS[kind]
    check_hostile(tmp_path, "d.tar.gz", packed, reason)


def check_hostile(tmp_path, name, packed, reason):
    archive, folder = tmp_path / name, tmp_path / "inside" / "folder"
    archive.write_bytes(packed)
    folder.mkdir(parents=True)
    with pytest.raises(DownloadError, match=reason):
        unpack(archive, folder)
    only(tmp_path, name, "inside")
    only(tmp_path / "inside", "folder")


MIXED = np.random.default_rng(3).bytes(3000) + b"some text " * 1000


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("d.zip", zip_bytes(("a", MIXED))),
        ("d.tar.gz", tar_bytes(("a", MIXED))),
        ("d.tar.bz2", tar_bytes(("a", MIXED), mode="w:bz2")),
        ("d.tar.xz", tar_bytes(("a", MIXED), mode="w:xz")),
    ],
)
def test_flipped_bits_never_pass(tmp_path, name, packed):
    for position in range(0, len(packed), 29):
        damaged = bytearray(packed)
        damaged[position] ^= 0xFF
        folder = tmp_path / str(position)
        folder.mkdir()
        (tmp_path / name).write_bytes(damaged)
        try:
            unpack(tmp_path / name, folder)
        except DownloadError:
            continue
        # some bits (times, flags, names) carry no content
        assert [path.read_bytes() for path in folder.iterdir()] == [MIXED]


def test_a_zip_that_lies_about_sizes(tmp_path):
    packed = bytearray(zip_bytes(("a", bytes(1 << 20))))
    central = packed.index(b"PK\x01\x02")
    struct.pack_into("<I", packed, central + 24, 10)
    check_hostile(tmp_path, "d.zip", bytes(packed), "damaged")


def test_an_encrypted_zip(tmp_path):
    packed = bytearray(zip_bytes(("a", b"a")))
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    check_hostile(tmp_path, "d.zip", bytes(packed), "encrypted")


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    archive = tmp_path / "d.zip"
    archive.write_bytes(zip_bytes(*GOOD))
    with pytest.raises(DownloadError, match="or 2 members"):
        unpack(archive, tmp_path)


def test_a_hostile_archive_leaves_nothing_unpacked(server, tmp_path):
    server.usual = Answer(tar_bytes(("good", b"x"), ("../evil", b"x")))
    with pytest.raises(DownloadError, match="leaves its folder"):
        get(source_of(server, "d.tar.gz", unpack=True), tmp_path)
    only(tmp_path, "d.tar.gz", "d.tar.gz.sha256")


# -- manifests

MANIFEST = """
offline = "Simulate."
[sources.one]
title = "One"
citation = "Somebody (2020)"
licence = "CC0"
addresses_tried = false
[[sources.one.files]]
url = "https://example.org/a%20b.zip?download=1"
size = 12
checksum = "md5:ca7167334006f3c17f9071f14c435335"
unpack = true
[[sources.one.files]]
name = "c.csv"
url = "https://example.org/get?id=3"
size = "unknown"
checksum = "unknown"
"""


def test_manifest(tmp_path):
    path = tmp_path / "sources.toml"
    path.write_text(MANIFEST)
    source = load_manifest(path)["one"]
    assert (source.title, source.offline, source.addresses_tried) == ("One", "Simulate.", False)
    first, second = source.files
    assert (first.name, first.size, first.unpack) == ("a b.zip", 12, True)
    assert first.checksum == "md5:ca7167334006f3c17f9071f14c435335"
    assert (second.name, second.size, second.checksum) == ("c.csv", None, None)
    with pytest.raises(DataError, match=r"No source 'two' in .*; known are: one"):
        load_manifest(path)["two"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "One"', "", "title missing"),
        ('title = "One"', "title = 1", "title of the wrong type"),
        ('title = "One"', 'titel = "One"\ntitle = "One"', "unknown titel"),
        ("https://example.org/get", "file:///etc/passwd", "no http or https"),
        ('name = "c.csv"', 'name = "../c.csv"', "no plain file name"),
        ('name = "c.csv"', "", None),
        ('name = "c.csv"', 'name = "a b.zip"', "a name of its own"),
        ("size = 12", "size = -1", "neither bytes nor"),
        ("size = 12", 'size = "12 MB"', "neither bytes nor"),
        ("size = 12", "size = true", "neither bytes nor"),
        ("md5:ca", "md5:", "is none of md5:<32"),
        ("md5:ca", "crc:ca", "is none of md5:<32"),
        ("a%20b.zip", "a%20b.rar", "cannot unpack"),
        ("[sources.one]", "[sources", "no valid TOML"),
        ('offline = "Simulate."', 'sources = "x"', "no valid TOML"),
    ],
)
def test_wrong_manifests(tmp_path, old, new, message):
    path = tmp_path / "sources.toml"
    assert old in MANIFEST
    path.write_text(MANIFEST.replace(old, new))
    if message is None:
        assert load_manifest(path)["one"].files[1].name == "get"
        return
    with pytest.raises(DataError, match=message) as caught:
        load_manifest(path)
    assert str(path) in str(caught.value)


def test_missing_manifest(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_manifest(tmp_path / "none.toml")


def test_the_crater_manifest():
    path = Path(download.__file__).parent / "tracks" / "craters" / "sources.toml"
    manifest = load_manifest(path)
    assert set(manifest.sources) == {"ramp2018", "themis-lagain"}
    for source in manifest.sources.values():
        for way in ("python download_data.py --track craters", "--mosaic", "--tiles"):
            assert way in source.offline


# -- the command line

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def command(server, monkeypatch):
    """Run download_data.py here, with the public addresses served by the local server."""
    path = Path(download.__file__).parent / "tracks" / "craters" / "sources.toml"
    text = re.sub(r'"https?://[^"]*/([^"/]*)"', rf'"{server.address}/\1"', path.read_text())

    def load(manifest):
        (server.folder / manifest.name).write_text(text)
        return load_manifest(server.folder / manifest.name)

    monkeypatch.setattr(download, "load_manifest", load)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("RAMP_TRACK", raising=False)
    spec = importlib.util.spec_from_file_location("download_data", ROOT / "download_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([*map(str, arguments)])


def test_the_arrays_of_2018_from_the_net_to_the_splits(server, command, tmp_path):
    server.folder = tmp_path / "served"
    server.folder.mkdir()
    for seed, split in enumerate(("train", "test")):  # other ground, or the leak audit refuses
        array = Array(seed)
        for _ in range(3):
            array.add_level(2, 3)
        array.save(server.folder, split)
    cut = []

    def serve(handler):
        content = (server.folder / handler.path[1:]).read_bytes()
        first = handler.path not in cut
        cut.append(handler.path)
        Answer(content, cut=len(content) // 2 if first else None)(handler)

    server.usual = serve
    out = tmp_path / "data"
    arguments = ("--track", "craters", "--source", "ramp2018", "--out", out, "--quiet")
    assert command(*arguments) == 0
    assert len(server.requests) == 8  # every file was cut once and continued
    X, y = (read(out / "craters" / "train") for read in (read_images, read_targets))
    assert len(X) == 18 and y.tiles["block"].nunique() == 3
    raw = out / "craters" / "raw" / "ramp2018"
    assert (raw / "data_train.npy.sha256").exists()
    assert command(*arguments, "--force") == 0
    assert len(server.requests) == 8  # what was fetched is used again


def test_without_network_the_command_line_tells_the_ways_out(server, command, tmp_path, capsys):
    server.folder = tmp_path
    server.usual = error(503)
    out = tmp_path / "data"
    assert command("--track", "craters", "--source", "themis-lagain", "--out", out) == 1
    message = capsys.readouterr().err
    for words in ("503", "--mosaic FILE.tif", "simulates", "--tiles", "22769567365 bytes"):
        assert words in message
    assert "Traceback" not in message
