"""Chips of one place as a finished piece on disk, so that thousands can be made anywhere.

A place is an independent piece of work. Its file is written whole or not at all, and its name says
what went into it: an interrupted preparation goes on where it stopped, and nothing old is mixed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from acdc import store
from acdc.errors import DataError
from acdc.tracks.worldstrat import chips, samples, simulate
from acdc.tracks.worldstrat.archive import Archive, Defect, Place
from acdc.tracks.worldstrat.simulate.overpass import Truth

# raise it when the same task gives other chips than before: unfinished work is not mixed then
_FORMAT = 1
_IMAGES = ("bands", "clear", "days", "target", "valid", "gain", "offset")
_NUMBERS = ("row", "col", "lon", "lat", "shift", "registered", "correlation")
_COUNTED = ("bands", "target")


@dataclass(frozen=True)
class Task:
    """All that is needed to prepare one place, anywhere.

    Attributes
    ----------
    root : Path
        Of the `Archive`.
    name : str
        Of the place.
    across : int
        Chips along a side, at most.
    folder : Path
        Where the finished piece goes.
    sources : str
        Identity of the raw data.
    """

    root: Path
    name: str
    across: int
    folder: Path
    sources: str

    @property
    def piece(self) -> Path:
        """The file of the finished piece."""
        stated = json.dumps([_FORMAT, self.name, self.across, self.sources])
        return Path(self.folder) / f"{hashlib.sha256(stated.encode()).hexdigest()[:24]}.npz"


def plan(archive: Archive, names: Sequence[str], folder: Path, across: int = 1) -> list[Task]:
    """One task per place.

    Parameters
    ----------
    archive : Archive
    names : sequence of str
        Keys of its places.
    folder : Path
        Of the pieces; made if missing.
    across : int
        Chips along a side of a place, at most.

    Raises
    ------
    DataError
        When a place is unknown.
    """
    unknown = [name for name in names if name not in archive.places]
    if unknown:
        raise DataError(f"{archive.root} has no place {unknown[0]!r}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    # what lies inside of the folders is not looked at: that would take as long as reading it
    stated = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(archive.root.iterdir())
        if path.suffix in (".csv", ".zip") or path.name in ("hr_dataset", "lr_dataset")
    ]
    sources = hashlib.sha256(json.dumps(stated).encode()).hexdigest()
    return [Task(archive.root, name, across, Path(folder), sources) for name in names]


@lru_cache(maxsize=1)
def _archive(root: Path, sources: str) -> Archive:
    # a worker opens the tables, and the index of a zip, once for all its places
    return Archive(root)


def prepare_piece(task: Task) -> Path:
    """Make the chips of a place, unless they are there already; returns the piece."""
    if task.piece.is_file():
        return task.piece
    archive = _archive(task.root, task.sources)
    raw, defects = archive.read(task.name)
    made: list[chips.Chip] = []
    if raw is not None:
        made, more = chips.make(raw, task.across)
        defects = defects + more
    arrays: dict[str, np.ndarray] = {}
    for name in _IMAGES if made else ():
        values = np.stack([getattr(chip, name) for chip in made])
        arrays[name] = chips.to_counts(values) if name in _COUNTED else values
    described = {
        "place": asdict(archive.places[task.name]),
        "chips": [{name: getattr(chip, name) for name in _NUMBERS} for chip in made],
        "defects": [asdict(defect) for defect in defects],
    }
    temporary = task.piece.with_name(task.piece.name + ".part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, described=np.array(json.dumps(described)), **arrays)  # type: ignore[arg-type,unused-ignore]
        temporary.replace(task.piece)
    finally:
        temporary.unlink(missing_ok=True)
    return task.piece


def read_piece(task: Task) -> tuple[list[chips.Chip], list[Defect]]:
    """Chips and defects of a finished piece.

    Raises
    ------
    DataError
        When it is not finished or damaged.
    """
    described, arrays = _load(task, images=True)
    place = _place(described["place"])
    made = []
    for k, numbers in enumerate(described["chips"]):
        values: dict[str, Any] = {name: arrays[name][k] for name in _IMAGES}
        for name in _COUNTED:
            values[name] = chips.to_reflectance(values[name])
        values |= {**numbers, "shift": tuple(numbers["shift"])}
        made.append(chips.Chip(place=place, **values))
    return made, [Defect(**defect) for defect in described["defects"]]


def _load(task: Task, images: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(task.piece, allow_pickle=False) as file:
            described = json.loads(str(file["described"]))
            arrays = {name: file[name] for name in _IMAGES if images and name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"{task.piece} of {task.name} is not finished") from error
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{task.piece} of {task.name} is damaged ({error}); delete it and prepare again"
        ) from error
    return described, arrays


def _place(stated: dict[str, Any]) -> Place:
    # JSON knows no numbers as keys, and no tuples
    days = {int(n): float(day) for n, day in stated["days"].items()}
    return Place(**{**stated, "bounds": tuple(stated["bounds"]), "days": days})


def report(tasks: Sequence[Task]) -> pd.DataFrame:
    """What was left out or replaced on the way: place, what, reason, dropped; one row each."""
    rows = [defect for task in tasks for defect in _load(task, images=False)[0]["defects"]]
    return pd.DataFrame(rows, columns=["place", "what", "reason", "dropped"])


def write_split(
    folder: Path,
    tasks: Sequence[Task],
    *,
    attributes: Mapping[str, store.Attribute],
    shuffle_seed: int | None = None,
) -> None:
    """Write finished pieces as one split, a place in memory at a time.

    Simulated places take their truth along (folder `truth` of the raw data).

    Parameters
    ----------
    folder : Path
        Of inputs.h5 and targets.h5.
    tasks : sequence of Task
    attributes : mapping
        What a participant may know.
    shuffle_seed : int or None
        Shuffle the order of the chips.

    Raises
    ------
    DataError
        When a piece is not finished or none holds a chip.
    """
    n = sum(len(_load(task, images=False)[0]["chips"]) for task in tasks)
    order = None
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(n)
    samples.write_split(folder, _with_truth(tasks), n, attributes=attributes, order=order)


def _with_truth(tasks: Sequence[Task]) -> Iterator[tuple[chips.Chip, Truth | None]]:
    for task in tasks:
        file = Path(task.root) / "truth" / f"{task.name}.npz"
        for chip in read_piece(task)[0]:
            known = None
            if file.is_file():
                known = simulate.read_truth(file, chip.row, chip.col, chip.shift)
            yield chip, known
