"""Archives from elsewhere, unpacked without trusting them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from acdc.errors import DownloadError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
CHUNK = 1 << 20  # bytes per read
# Text packs to about a tenth, empty rasters to a hundredth; what is beyond that is a bomb.
LARGEST_RATIO = 100
ALWAYS_ALLOWED = 64 << 20  # bytes
MOST_MEMBERS = 1_000_000

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression or zip version that Python does not know
)
_Member = tuple[str, int, IO[bytes] | None]  # name, size in bytes, contents (None: a folder)


def unpack(archive: Path, folder: Path, *, progress: bool = False) -> None:
    """Unpack a zip or tar archive that may be hostile into an empty folder.

    Only plain files and folders are written, all below `folder`. This is stricter than
    ``tarfile``'s filter "data", which came with Python 3.11.4 only, lets links pass, and has no
    twin for zip.

    Parameters
    ----------
    archive : pathlib.Path
        A file that ends in .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz.
    folder : pathlib.Path
        Existing and empty.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    DownloadError
        If the archive is damaged or encrypted, holds links, devices, absolute paths, paths that
        leave the folder or one name twice, or unpacks to more than 100 times its size (64 MiB for
        small ones) or to more than a million members.
    OSError
        If the disk is full or not writable.
    """
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    try:
        _write(members(archive), archive, folder, progress)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        name = Path(error.filename).relative_to(folder)
        raise DownloadError(
            f"{archive} holds {str(name)!r} twice, or as both a file and a folder."
        ) from error
    except _DAMAGE as error:
        raise DownloadError(f"{archive} is damaged or of an unknown kind: {error}.") from error
    except OSError as error:
        # gzip and bz2 report damage as an OSError without a number
        if isinstance(error, DownloadError) or error.errno is not None:
            raise
        raise DownloadError(f"{archive} is damaged: {error}.") from error


def _write(members: Iterator[_Member], archive: Path, folder: Path, progress: bool) -> None:
    allowed = max(LARGEST_RATIO * archive.stat().st_size, ALWAYS_ALLOWED)
    too_much = DownloadError(
        f"{archive} would unpack to more than {allowed} bytes or {MOST_MEMBERS} members, "
        "which an archive of its size should not."
    )
    announced = 0
    with tqdm(
        desc=f"unpack {archive.name}", unit="B", unit_scale=True, leave=False, disable=not progress
    ) as bar:
        for count, (name, size, contents) in enumerate(members):
            # zipfile and tarfile never hand out more than a member's announced size
            announced += size
            if count >= MOST_MEMBERS or announced > allowed:
                raise too_much
            target = folder / _inner_path(archive, name)
            if contents is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with contents, target.open("xb") as out:
                while block := contents.read(CHUNK):
                    out.write(block)
                    bar.update(len(block))


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if info.flag_bits & 1:
                raise DownloadError(f"{archive} is encrypted at {info.filename!r}.")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_plain(archive, info.filename)
            yield info.filename, info.file_size, None if info.is_dir() else file.open(info)


def _tar_members(archive: Path) -> Iterator[_Member]:
    # "r|": one pass, because seeking in 40 compressed GB takes hours. tarfile's own decompression
    # of such a stream does not look at the checksums.
    with _decompressed(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as file:
        for info in file:
            if not (info.isreg() or info.isdir()):
                raise _not_plain(archive, info.name)
            yield info.name, info.size, None if info.isdir() else file.extractfile(info)
        # the checksum stands at the end, behind what is left of the last block
        if len(stream.read(CHUNK)) == CHUNK:
            raise DownloadError(f"{archive} holds something behind the end of its tar archive.")


def _decompressed(archive: Path) -> IO[bytes]:
    kinds: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".tgz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
    }
    return kinds.get(archive.suffix.lower(), lambda path: path.open("rb"))(archive)


def _not_plain(archive: Path, name: str) -> DownloadError:
    return DownloadError(
        f"{archive} holds {name!r}, a link or device; only plain files and folders are unpacked."
    )


def _inner_path(archive: Path, name: str) -> Path:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or re.search(r"[\\:\0]", name):
        raise DownloadError(f"{archive} holds {name!r}, a path that leaves its folder.")
    return Path(*(part for part in parts if part not in ("", ".")))
