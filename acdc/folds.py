"""Folds of cross-validation that keep blocks of independent ground whole."""

from __future__ import annotations

import numpy as np

from acdc.errors import DataError


def block_folds(block: np.ndarray, n_folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide samples into folds of whole blocks with nearly the same number of samples.

    Parameters
    ----------
    block : ndarray (n,)
        Name of each sample's block.
    n_folds : int

    Returns
    -------
    list of (ndarray of int, ndarray of int)
        Training and validation rows, rising; the same for the same blocks.

    Raises
    ------
    DataError
        When there are fewer blocks than folds.
    """
    names, number, size = np.unique(block, return_inverse=True, return_counts=True)
    if len(names) < n_folds:
        raise DataError(
            f"the training split has {len(names)} blocks of independent ground, {n_folds} folds "
            "need as many; prepare more data"
        )
    fold = np.empty(len(names), dtype=int)
    filled = np.zeros(n_folds)
    # large blocks first, equal ones in an order that is mixed but always the same
    mixed = np.random.default_rng(0).permutation(len(names))
    for block_number in mixed[np.argsort(-size[mixed], kind="stable")]:
        fold[block_number] = filled.argmin()
        filled[filled.argmin()] += size[block_number]
    of_sample = fold[number.reshape(-1)]
    return [
        (np.flatnonzero(of_sample != k), np.flatnonzero(of_sample == k)) for k in range(n_folds)
    ]
