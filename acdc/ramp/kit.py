"""All that `problem.py` exposes, made from the track that its folder serves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from acdc import tracks
from acdc.ramp.predictions import make_predictions
from acdc.ramp.scores import make_score_types
from acdc.ramp.workflow import make_workflow


class Kit:
    """A kit folder as ramp-workflow sees it.

    Parameters
    ----------
    folder : Path
        The folder of `problem.py`.
    """

    def __init__(self, folder: Path) -> None:
        self.track = tracks.load(tracks.choose_name(folder, os.environ))
        self.problem_title = self.track.title
        self.Predictions = make_predictions(self.track)
        self.workflow = make_workflow(self.track)
        self.score_types = make_score_types(self.track)

    def get_cv(self, X: Any, y: Any) -> list[Any]:
        """Folds of cross-validation: pairs of training and validation rows."""
        return self.track.folds(y)

    def get_train_data(self, path: str = ".", data_label: str | None = None) -> tuple[Any, Any]:
        """Inputs and targets of the training split below `path`/data."""
        return self._read(path, data_label, "train")

    def get_test_data(self, path: str = ".", data_label: str | None = None) -> tuple[Any, Any]:
        """Inputs and targets of the test split below `path`/data."""
        return self._read(path, data_label, "test")

    def _read(self, path: str, data_label: str | None, split: str) -> tuple[Any, Any]:
        folder = Path(path, "data", data_label or "", self.track.name, split)
        quick = os.environ.get("RAMP_TEST_MODE", "0") == "1"
        return self.track.read(folder, quick)

    def save_y_pred(self, y_pred: Any, data_path: str, output_path: str, suffix: str) -> None:
        """Store predictions as `output_path`/y_pred_`suffix`.npz."""
        self.track.save(y_pred, self._file(output_path, suffix))

    def load_y_pred(self, data_path: str, input_path: str, suffix: str) -> Any:
        """Load what `save_y_pred` stored."""
        return self.track.load(self._file(input_path, suffix))

    @staticmethod
    def _file(folder: str, suffix: str) -> Path:
        return Path(folder, f"y_pred_{suffix}.npz")
