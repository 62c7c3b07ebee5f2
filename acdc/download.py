"""Public raw data: a manifest of sources (TOML) becomes verified local files.

A manifest states what a source is (title, citation, licence) and which files it consists of
(address, size, checksum); :func:`fetch` brings those files into a folder, and nothing in that
folder bears its final name before its size and checksum have been verified.

The transfer is the standard library's. `pooch` was considered and left: it starts every attempt
with a new temporary file, so a 23 GB mosaic on a line that drops every hour would never arrive, and
it neither limits nor, on Python 3.11, filters what an archive unpacks.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import re
import shutil
import socket
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from acdc.archives import ARCHIVES, unpack
from acdc.errors import DataError, DownloadError

CHUNK = 1 << 20  # bytes per read; also what an attempt must gain to count as progress
LONGEST_WAIT = 60.0  # seconds between two attempts
HEX_DIGITS = {"md5": 32, "sha256": 64, "sha512": 128}


@dataclass(frozen=True)
class RemoteFile:
    """One file of a source.

    Parameters
    ----------
    name : str
        File name in the destination folder.
    url : str
        Address, http or https.
    size : int or None
        Bytes; None where the publisher does not state them.
    checksum : str or None
        ``"<algorithm>:<hex digits>"`` with md5, sha256 or sha512; None where none was
        published. Then the sha256 of the first download is kept beside the file in ``NAME.sha256``
        and later contents are compared with that.
    unpack : bool
        Whether the file is a zip or tar archive to be unpacked into the folder ``NAME.unpacked``.
    """

    name: str
    url: str
    size: int | None
    checksum: str | None
    unpack: bool = False


@dataclass(frozen=True)
class Source:
    """A published data set: what it is, how to cite it, what one may do with it, and its files.

    Parameters
    ----------
    name : str
        Key in the manifest.
    title, citation, licence : str
        For people; `licence` says so in words where none is stated.
    files : tuple of RemoteFile
        At least one.
    addresses_tried : bool
        Whether somebody has fetched from these addresses; if not, a failure's message says so.
    notes : str
        Remarks, may be empty.
    offline : str
        What a user without network can do instead, from the manifest; may be empty.
    """

    name: str
    title: str
    citation: str
    licence: str
    files: tuple[RemoteFile, ...]
    addresses_tried: bool
    notes: str = ""
    offline: str = ""


@dataclass(frozen=True)
class Manifest:
    """The sources of one manifest file, by name.

    Parameters
    ----------
    path : pathlib.Path
        Where it was read from.
    sources : dict of str to Source
        In the order of the file.
    """

    path: Path
    sources: dict[str, Source]

    def __getitem__(self, name: str) -> Source:
        """Return the source called `name`; DataError lists the known ones."""
        try:
            return self.sources[name]
        except KeyError:
            raise DataError(
                f"No source {name!r} in {self.path}; known are: {', '.join(self.sources)}."
            ) from None


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Parameters
    ----------
    path : pathlib.Path
        TOML file: ``offline`` (text, optional) and per source a table ``[sources.NAME]`` with
        ``title``, ``citation``, ``licence``, ``addresses_tried`` (true or false), optionally
        ``notes``, and a list ``[[sources.NAME.files]]`` with ``url``, ``size`` (bytes or
        "unknown"), ``checksum`` ("sha256:<hex>", "md5:<hex>" or "unknown") and optionally ``name``
        (the address's last part if absent) and ``unpack`` (false if absent).

    Returns
    -------
    Manifest

    Raises
    ------
    DataError
        If the file is missing, no TOML, or an entry is missing, unknown or impossible.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"The manifest {path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"The manifest {path} is no valid TOML: {error}.") from None
    _require(document, path, "top level", needed={"sources": dict}, optional={"offline": str})
    offline = document.get("offline", "")
    sources = {
        name: _parse_source(name, table, offline, path)
        for name, table in document["sources"].items()
    }
    return Manifest(path, sources)


def _parse_source(name: str, table: Any, offline: str, path: Path) -> Source:
    where = f"source {name!r}"
    _require(
        table,
        path,
        where,
        needed={
            "title": str,
            "citation": str,
            "licence": str,
            "addresses_tried": bool,
            "files": list,
        },
        optional={"notes": str},
    )
    files = tuple(
        _parse_file(entry, path, f"{where}, file {i}") for i, entry in enumerate(table["files"])
    )
    names = [file.name for file in files]
    if not files or len(set(names)) < len(names):
        raise DataError(
            f"{path}, {where}: needs at least one file, and every file a name of its own."
        )
    return Source(
        name=name,
        title=table["title"],
        citation=table["citation"],
        licence=table["licence"],
        files=files,
        addresses_tried=table["addresses_tried"],
        notes=table.get("notes", ""),
        offline=offline,
    )


def _parse_file(entry: Any, path: Path, where: str) -> RemoteFile:
    _require(
        entry,
        path,
        where,
        needed={"url": str, "size": (int, str), "checksum": str},
        optional={"name": str, "unpack": bool},
    )
    url, size, checksum = entry["url"], entry["size"], entry["checksum"]
    address = urllib.parse.urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise DataError(f"{path}, {where}: url {url!r} is no http or https address.")
    name = entry.get("name", urllib.parse.unquote(PurePosixPath(address.path).name))
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. +-]*", name):
        raise DataError(f"{path}, {where}: {name!r} is no plain file name; state one as `name`.")
    if size != "unknown" and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise DataError(f'{path}, {where}: size {size!r} is neither bytes nor "unknown".')
    algorithm, _, digest = checksum.partition(":")
    if checksum != "unknown" and (
        not re.fullmatch("[0-9a-f]+", digest) or len(digest) != HEX_DIGITS.get(algorithm)
    ):
        known = ", ".join(f"{name}:<{n} lower-case hex digits>" for name, n in HEX_DIGITS.items())
        raise DataError(f'{path}, {where}: checksum {checksum!r} is none of {known}, or "unknown".')
    unpack = entry.get("unpack", False)
    if unpack and not name.lower().endswith(ARCHIVES):
        raise DataError(
            f"{path}, {where}: cannot unpack {name!r}; known are {', '.join(ARCHIVES)}."
        )
    return RemoteFile(
        name=name,
        url=url,
        size=None if size == "unknown" else size,
        checksum=None if checksum == "unknown" else checksum,
        unpack=unpack,
    )


def _require(
    table: Any, path: Path, where: str, *, needed: dict[str, Any], optional: dict[str, Any]
) -> None:
    if not isinstance(table, dict):
        raise DataError(f"{path}, {where}: expected a table, got {table!r}.")
    known = needed | optional
    if missing := [key for key in needed if key not in table]:
        raise DataError(f"{path}, {where}: {', '.join(missing)} missing.")
    if unknown := [key for key in table if key not in known]:
        raise DataError(
            f"{path}, {where}: unknown {', '.join(unknown)}; known: {', '.join(known)}."
        )
    if wrong := [key for key, value in table.items() if not isinstance(value, known[key])]:
        raise DataError(f"{path}, {where}: {', '.join(wrong)} of the wrong type.")


def fetch(
    source: Source,
    destination: Path,
    *,
    progress: bool = True,
    retries: int = 5,
    backoff: float = 1.0,
    timeout: float = 30.0,
) -> dict[str, Path]:
    """Bring a source's files into a folder, verified; what is there and verifies is used again.

    A broken transfer leaves ``NAME.part`` and is continued by the next attempt or call, if the
    server's validator (ETag or modification date) or the manifest's checksum can show that both
    pieces belong to the same file. A file fetched by hand is put at ``destination/NAME`` and
    verified likewise.

    Parameters
    ----------
    source : Source
        From :func:`load_manifest`.
    destination : pathlib.Path
        Folder, made if absent.
    progress : bool
        Whether to show progress bars.
    retries : int
        Further attempts after one that failed without bringing at least 1 MiB of new bytes.
    backoff : float
        Seconds before the first further attempt; doubled for each next one, at most 60.
    timeout : float
        Seconds that a connection may be silent.

    Returns
    -------
    dict of str to pathlib.Path
        Per file name the local file; for archives marked `unpack` the folder with the contents.

    Raises
    ------
    DownloadError
        If a file cannot be fetched, does not verify, its archive is unsafe or damaged, or the disk
        is full. Says where a file fetched by hand belongs and what can be done without network.
    """
    destination = Path(destination)
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"Cannot make the folder {destination}: {error}.") from None
    return {
        file.name: _Fetch(source, file, destination / file.name, progress, timeout).run(
            retries, backoff
        )
        for file in source.files
    }


class _TransferError(Exception):
    """One attempt failed; a further one may succeed."""

    def __init__(self, reason: str, wait: float = 0.0, offline: bool = False):
        super().__init__(reason)
        self.wait = wait
        self.offline = offline


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.HTTPError(
                newurl, code, "redirected from https to an insecure address", headers, fp
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


class _Fetch:
    """One file on its way; holds what every step's error message needs."""

    def __init__(
        self, source: Source, file: RemoteFile, path: Path, progress: bool, timeout: float
    ):
        self.source = source
        self.file = file
        self.path = path
        self.progress = progress
        self.timeout = timeout
        self.part = path.with_name(path.name + ".part")
        self.part_notes = path.with_name(path.name + ".part.json")
        self.recorded = path.with_name(path.name + ".sha256")
        self.unpacked = path.with_name(path.name + ".unpacked")

    def run(self, retries: int, backoff: float) -> Path:
        try:
            if self.file.unpack and not self.path.exists() and self._is_unpacked(self._expected()):
                return self.unpacked  # the archive itself was deleted to save space
            if not self.path.exists():
                self._download(retries, backoff)
            checksum = self._verify(self.path)
            return self._unpack(checksum) if self.file.unpack else self.path
        except OSError as error:
            if isinstance(error, DownloadError):
                raise
            raise self._storage_error(error) from error

    # -- messages

    def _error(self, reason: str) -> DownloadError:
        file = self.file
        untried = (
            ""
            if self.source.addresses_tried
            else " (the address was taken from public code and has not been tried)"
        )
        size = "size unknown" if file.size is None else f"{file.size} bytes"
        return DownloadError(
            f"{file.name} of source {self.source.name!r} could not be had from "
            f"{file.url}{untried}: {reason}. "
            f"Run the same command again, or fetch the file by hand and put it at {self.path} "
            f"({size}, checksum {file.checksum or 'unknown'}). {self.source.offline}".rstrip()
        )

    def _storage_error(self, error: OSError) -> DownloadError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self.path.parent).free
            needed = "" if self.file.size is None else f"; the file has {self.file.size} bytes"
            return DownloadError(
                f"The disk is full: {self.file.name} does not fit into {self.path.parent} "
                f"({free} bytes free{needed}). Make room and run the same command again: it "
                "continues where it was."
            )
        return DownloadError(f"Cannot write {self.file.name} in {self.path.parent}: {error}.")

    # -- verification

    def _expected(self) -> str | None:
        """Checksum of the manifest, else the one recorded after the first download."""
        if self.file.checksum is not None or not self.recorded.exists():
            return self.file.checksum
        digest = self.recorded.read_text(encoding="utf-8", errors="replace").split(" ")[0]
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DownloadError(
                f"{self.recorded} holds no sha256 checksum; delete it to record a new one."
            )
        return f"sha256:{digest}"

    def _verify(self, path: Path) -> str:
        """Compare size and checksum; return the checksum, recorded if it was unknown."""
        expected = self._expected()
        size = path.stat().st_size
        if self.file.size is not None and size != self.file.size:
            raise self._mismatch(path, f"has {size} bytes, expected {self.file.size}")
        found = self._checksum(path, expected.partition(":")[0] if expected else "sha256")
        if expected is None:
            draft = self.recorded.with_name(self.recorded.name + ".part")
            draft.write_text(f"{found.partition(':')[2]}  {self.file.name}\n", encoding="utf-8")
            draft.replace(self.recorded)
        elif found != expected:
            origin = "the manifest says" if self.file.checksum else f"{self.recorded.name} says"
            raise self._mismatch(path, f"has checksum {found}, {origin} {expected}")
        return found

    def _mismatch(self, path: Path, what: str) -> DownloadError:
        if path == self.part:
            advice = "What was fetched is deleted"
            if self.file.checksum is None and self.recorded.exists():
                advice += f"; if the publisher has replaced the file, delete {self.recorded} too"
            return self._error(f"what arrived {what}. {advice}")
        return DownloadError(
            f"{path} {what}: it is damaged, or another version. Move or delete it (and "
            f"{self.recorded.name}, if there is one) and run the same command again to fetch it."
        )

    def _checksum(self, path: Path, algorithm: str) -> str:
        digest = hashlib.new(algorithm)
        with (
            path.open("rb") as stream,
            self._bar(path.stat().st_size, f"verify {self.file.name}") as bar,
        ):
            while block := stream.read(CHUNK):
                digest.update(block)
                bar.update(len(block))
        return f"{algorithm}:{digest.hexdigest()}"

    def _bar(self, total: int | None, title: str) -> tqdm:
        return tqdm(
            total=total,
            desc=title,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not self.progress,
        )

    # -- transfer

    def _download(self, retries: int, backoff: float) -> None:
        """Fetch into ``NAME.part``, verify, rename."""
        pieces = 0
        while True:
            pieces += self._transfer_all(retries, backoff)
            try:
                self._verify(self.part)
                break
            except DownloadError:
                self._discard()
                # Pieces of two versions may have been joined, so a second time in one piece can
                # help; what already came in one piece would come the same again.
                if pieces <= 1:
                    raise
                pieces = 0
        self.part.replace(self.path)
        self.part_notes.unlink(missing_ok=True)

    def _transfer_all(self, retries: int, backoff: float) -> int:
        """Attempt until the part is complete; return the number of pieces it was joined from."""
        failures, pieces = 0, int(self._held() > 0)
        reached = self._held()
        with self._bar(self.file.size, self.file.name) as bar:
            while True:
                try:
                    self._transfer(bar)
                    return pieces + 1
                except _TransferError as broken:
                    # Only bytes beyond the furthest point count: a server that starts anew each
                    # time and breaks at the same place must not keep us here for ever.
                    held = self._held()
                    if held >= reached + CHUNK:
                        failures, reached = 0, held
                    failures += 1
                    pieces += 1
                    if failures > retries or (broken.offline and reached == 0):
                        kept = f" ({held} bytes are kept and will be continued)" if held else ""
                        raise self._error(f"{broken}{kept}") from broken
                    time.sleep(min(max(broken.wait, backoff * 2 ** (failures - 1)), LONGEST_WAIT))

    def _transfer(self, bar: tqdm) -> None:
        """Make one request; return if the part is complete, else raise."""
        offset, notes = self._resume_point()
        if offset and offset == notes.get("total", self.file.size):
            return
        with self._open(offset, notes) as response:
            offset, total = self._accept(response, offset, notes)
            self._check_room(total, offset)
            bar.total = total
            bar.n = offset
            bar.refresh()
            with self.part.open("ab") as out:
                while block := self._read(response):
                    offset += len(block)
                    if total is not None and offset > total:
                        raise self._error(f"the server sends more than the {total} bytes expected")
                    out.write(block)
                    bar.update(len(block))
        if total is not None and self._held() != total:
            raise _TransferError(f"the connection ended after {self._held()} of {total} bytes")

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _TransferError(f"the connection broke ({_describe(error)})") from error

    def _open(self, offset: int, notes: dict[str, Any]) -> http.client.HTTPResponse:
        headers = {"User-Agent": "ramp-acdc"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if "validator" in notes:
                headers["If-Range"] = notes["validator"]
        request = urllib.request.Request(self.file.url, headers=headers)
        try:
            return urllib.request.build_opener(_NoDowngrade).open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # the held part is longer than the file now is
                self._discard()
            elif error.code not in (408, 425, 429, 500, 502, 503, 504):
                raise self._error(reason) from error
            wait = error.headers.get("Retry-After", "") if error.headers else ""
            raise _TransferError(reason, float(wait) if wait.isdecimal() else 0.0) from error
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            unreachable = isinstance(cause, socket.gaierror) or (
                isinstance(cause, OSError)
                and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
            )
            raise _TransferError(
                f"no connection ({_describe(cause)})", offline=unreachable
            ) from error

    def _accept(
        self, response: http.client.HTTPResponse, offset: int, notes: dict[str, Any]
    ) -> tuple[int, int | None]:
        """Judge the answer's headers; return its first byte's offset and the file's whole size."""
        headers = response.headers
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._error(
                f"the server sends it as {headers['Content-Encoding']}, which cannot be verified"
            )
        if headers.get_content_type() == "text/html" and not self.file.name.endswith(
            (".html", ".htm")
        ):
            raise self._error(
                "a web page came instead of the file (a login page, or the address has changed)"
            )
        validator = _validator(headers)
        if response.status == 206:
            match = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip()
            )
            total = int(match[2]) if match and match[2] != "*" else notes.get("total")
            changed = "validator" in notes and validator not in (None, notes["validator"])
            if (
                not match
                or int(match[1]) != offset
                or changed
                or total != notes.get("total", total)
            ):
                self._discard()
                raise _TransferError("the server continues another file, or from another byte")
        else:
            offset = 0
            length = headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        verifiable = self.file.size is not None or self.file.checksum is not None
        if total is None and not response.chunked and not verifiable:
            raise self._error("the server does not say how long it is, so a cut would go unnoticed")
        if total is not None and self.file.size is not None and total != self.file.size:
            raise self._error(f"the server offers {total} bytes, expected are {self.file.size}")
        if offset == 0:
            self._discard()
            kept = {"url": self.file.url, "validator": validator, "total": total}
            self.part_notes.write_text(
                json.dumps({key: value for key, value in kept.items() if value is not None}),
                encoding="utf-8",
            )
        return offset, self.file.size if total is None else total

    def _resume_point(self) -> tuple[int, dict[str, Any]]:
        """How many bytes may be continued, and what is known of the file that they came from."""
        notes: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            notes = json.loads(self.part_notes.read_text(encoding="utf-8"))
        held = self._held()
        provable = "validator" in notes or self.file.checksum is not None
        return (held, notes) if provable and notes.get("url") == self.file.url else (0, {})

    def _held(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.part_notes.unlink(missing_ok=True)

    def _check_room(self, total: int | None, offset: int) -> None:
        if total is not None and total - offset > shutil.disk_usage(self.path.parent).free:
            raise OSError(errno.ENOSPC, "not enough room")

    # -- archives

    def _is_unpacked(self, checksum: str | None) -> bool:
        stamp = self.unpacked / ".archive"
        return checksum is not None and stamp.is_file() and stamp.read_text() == checksum

    def _unpack(self, checksum: str) -> Path:
        if self._is_unpacked(checksum):
            return self.unpacked
        draft = self.unpacked.with_name(self.unpacked.name + ".part")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            unpack(self.path, draft, progress=self.progress)
            (draft / ".archive").write_text(checksum)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        if self.unpacked.exists():
            shutil.rmtree(self.unpacked)
        return draft.rename(self.unpacked)


def _validator(headers: Message) -> str | None:
    """Return what If-Range may carry: a strong ETag, else the modification date."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _describe(error: BaseException | str) -> str:
    return str(error) or type(error).__name__
