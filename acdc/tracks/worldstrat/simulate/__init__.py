"""Invented landscapes in WorldStrat's raw layout; all of it is simulated data."""

from .places import SIZES, read_truth, simulate

__all__ = ["SIZES", "read_truth", "simulate"]
