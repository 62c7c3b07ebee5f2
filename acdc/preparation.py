"""What preparing data has in common on all tracks: not overwriting, provenance, private folders."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from acdc import store
from acdc.errors import DataError, KitError

SPLITS = ("train", "test")


def is_there(out: Path) -> bool:
    """Whether both splits of a track lie in `out`, whole."""
    return all(
        (out / split / file).is_file() for split in SPLITS for file in (store.INPUTS, store.TARGETS)
    )


def is_kept(out: Path, options: argparse.Namespace) -> bool:
    """Whether data that is there is to be used as it is.

    Raises
    ------
    DataError
        When there is data and neither keeping nor replacing it is wished.
    """
    if not is_there(out):
        return False
    if options.reuse:
        print(f"{out} is there already and is used as it is.")
    elif not options.force:
        raise DataError(
            f"{out} holds data already. Use it (--reuse), replace it (--force), "
            "or put the new data elsewhere (--out DIR)."
        )
    return bool(options.reuse)


def folders(options: argparse.Namespace, track: str) -> tuple[Path, Path]:
    """Where the splits of a track go, and where the records of how they were made go.

    Public data has both in one folder. What tells where hidden data comes from must not lie beside
    it, and the data not in the kit folder, which a server hands out.

    Raises
    ------
    KitError
        When hidden data would lie inside the kit folder.
    """
    if not options.private:
        out = Path(options.out) / track
        return out, out
    private = Path(options.private)
    if private.resolve().is_relative_to(Path(options.kit).resolve()):
        raise KitError(
            f"--private {private} lies inside the kit folder, which a server hands out; choose a "
            "folder outside of it"
        )
    return private / "data" / track, private


def write_provenance(file: Path, options: argparse.Namespace) -> None:
    """Say in a JSON file by which command data was made."""
    said = {
        name: str(value) if isinstance(value, Path | int) else value
        for name, value in vars(options).items()
        if value not in (None, False)
    }
    command = "python download_data.py " + shlex.join(options.arguments)
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(
        json.dumps({"command": command, "options": said}, indent=1), encoding="utf-8"
    )
    temporary.replace(file)
