"""The registry of tracks, and how a kit folder chooses the one that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from acdc.errors import KitError
from acdc.track import Track

TRACKS = {"craters": "acdc.tracks.craters.track", "lst": "acdc.tracks.lst.track"}
DEFAULT = "craters"


def choose_name(kit: Path, environment: Mapping[str, str]) -> str:
    """Name of the track that a kit folder serves.

    The file `TRACK` beside `problem.py` decides; without it the variable `RAMP_TRACK`; without
    both it is craters.

    Raises
    ------
    KitError
        When the name is unknown, or `RAMP_TRACK` contradicts the file.
    """
    file = Path(kit) / "TRACK"
    wish = environment.get("RAMP_TRACK", "").strip()
    if not file.is_file():
        return known(wish or DEFAULT, "RAMP_TRACK")
    name = known(file.read_text(encoding="utf-8").strip(), str(file))
    if wish and wish != name:
        raise KitError(
            f"this kit folder serves the track {name} (file {file}), but RAMP_TRACK says {wish}. "
            "Unset RAMP_TRACK, or use a folder without the file TRACK."
        )
    return name


def known(name: str, where: str) -> str:
    """Return the name if there is such a track, else raise a `KitError` that lists all tracks."""
    if name not in TRACKS:
        raise KitError(f"{where}: there is no track {name!r}; the tracks are {', '.join(TRACKS)}")
    return name


def load(name: str) -> Track:
    """Import a track by its name."""
    track: Track = import_module(TRACKS[known(name, "track")]).TRACK
    return track
