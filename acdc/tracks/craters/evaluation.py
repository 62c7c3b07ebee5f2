"""Detections beside the truth: matched once, read by every score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from acdc.metrics import detection
from acdc.tracks.craters.detections import Detections
from acdc.tracks.craters.tiles import RANGES, REASONS, WINDOW, Targets

NEVER_SCORED = (REASONS.index("uncertain"), REASONS.index("level"))


@dataclass(frozen=True)
class Evaluation:
    """What was found on some tiles, and what of it is right.

    Attributes
    ----------
    targets : Targets
    detections : Detections
        At most the 100 most confident of a tile count.
    matches : Matches
        Ranges in the order of `tiles.RANGES`.
    """

    targets: Targets
    detections: Detections
    matches: detection.Matches

    @staticmethod
    def join(parts: Sequence[Evaluation]) -> Evaluation:
        """The evaluations of groups of tiles as one."""
        return Evaluation(
            Targets.join([part.targets for part in parts]),
            Detections.join([part.detections for part in parts]),
            detection.Matches.concatenate([part.matches for part in parts]),
        )


def evaluate(targets: Targets, detections: Detections) -> Evaluation:
    """Match detections with the truth, tile by tile, by the rules of the challenge.

    Parameters
    ----------
    targets : Targets
    detections : Detections
        On the same tiles, in the same order.
    """
    return Evaluation(
        targets,
        detections,
        detection.match_circles(
            targets.row_col_radius,
            targets.offsets,
            np.isin(targets.reason, NEVER_SCORED),
            detections.values[:, :4],
            detections.offsets,
            ranges=tuple(RANGES.values()),
            window=WINDOW,
        ),
    )
