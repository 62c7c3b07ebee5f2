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


def refuse_to_replace(out: Path, *, force: bool) -> None:
    """Raise a `DataError` when `out` holds data and replacing it is not wished."""
    if is_there(out) and not force:
        raise DataError(
            f"{out} holds data already. Use it (--reuse), replace it (--force), "
            "or put the new data elsewhere (--out DIR)."
        )


def refuse_inside_kit(private: Path, kit: Path) -> None:
    """Raise a `KitError` when hidden data would lie in the folder that a server hands out."""
    if Path(private).resolve().is_relative_to(Path(kit).resolve()):
        raise KitError(
            f"--private {private} lies inside the kit folder, which a server hands out; choose a "
            "folder outside of it"
        )


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
