"""RAMP's workflow: import the element of a submission, fit it, let it predict, check the result."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from acdc.errors import KitError
from acdc.track import Samples, Track

_numbers = count()


class Workflow:
    """Trains and tests submissions of one track; the base of one class per track.

    Parameters
    ----------
    track : Track

    Attributes
    ----------
    element_names : list of str
        Files (without .py) that every submission provides.
    """

    def __init__(self, track: Track) -> None:
        self._track = track
        self.element_names = [track.element]

    def train_submission(self, module_path: str, X: Any, y: Any, train_is: Any = None) -> Any:
        """Fit the element of the submission in `module_path` on the samples `train_is` (or all)."""
        element = self._element(Path(module_path))
        if train_is is not None:
            X, y = X.subset(train_is), y[train_is]
        element.fit(X, y)
        return element

    def test_submission(self, trained_model: Any, X: Any) -> Samples:
        """Predict all samples of X and check what comes back."""
        return self._track.check(trained_model.predict(X), X)

    def _element(self, folder: Path) -> Any:
        file, name = folder / f"{self._track.element}.py", self._track.element_class
        if not file.is_file():
            raise KitError(
                f"{file} is missing; a submission to this track is one file of that name"
            )
        module = _import_once(file)
        if not hasattr(module, name):
            raise KitError(f"{file} defines no class {name}")
        return getattr(module, name)()


def _import_once(file: Path) -> ModuleType:
    """Execute a file as a module of its own that nobody else can import.

    The module is registered only while it runs (dataclasses look it up); afterwards its classes
    pickle by value.
    """
    name = f"{file.stem}_{next(_numbers)}"
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise KitError(f"{file} can't be imported")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def make_workflow(track: Track) -> Workflow:
    """Make the workflow of a track; its class has a name per track, as ramp-board asks."""
    return type(f"ACDC{track.name.title()}", (Workflow,), {})(track)
