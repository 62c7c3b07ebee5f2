"""What RAMP reads: the track that this folder serves (see README.md), in ramp-workflow's words."""

import importlib.util
import sys
import warnings
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_loaded = sys.modules.get("acdc")
if _loaded is None and str(_FOLDER) not in sys.path and (_FOLDER / "acdc").is_dir():
    sys.path.insert(0, str(_FOLDER))
if importlib.util.find_spec("acdc") is None:
    raise ImportError(f"{_FOLDER} holds no package acdc and none is installed: pip install .")

from acdc.ramp.kit import Kit  # noqa: E402

_used, _own = Path(sys.modules["acdc"].__file__ or "").resolve().parent, _FOLDER / "acdc"
if _own.is_dir() and _used != _own:
    warnings.warn(f"{_FOLDER} is served by the acdc of {_used}, not by its own", stacklevel=1)

_kit = Kit(_FOLDER)
problem_title = _kit.problem_title
Predictions = _kit.Predictions
workflow = _kit.workflow
score_types = _kit.score_types
leaderboard_score_kind = "bagged"
get_cv = _kit.get_cv
get_train_data = _kit.get_train_data
get_test_data = _kit.get_test_data
save_y_pred = _kit.save_y_pred
load_y_pred = _kit.load_y_pred
