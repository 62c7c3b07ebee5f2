"""Errors that a user can act on: what, where, what was expected and what to do about it."""

from __future__ import annotations


class KitError(Exception):
    """Anything the kit refuses on purpose; its message is one readable line or paragraph."""


class DataError(KitError, ValueError):
    """A data file, catalogue, mosaic or label file is missing, damaged or impossible."""


class PredictionError(KitError, ValueError):
    """A submission returned something that is no valid prediction."""


class DownloadError(KitError, OSError):
    """A file could not be fetched or does not match its manifest entry."""
