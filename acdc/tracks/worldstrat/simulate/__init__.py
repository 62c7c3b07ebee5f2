"""Invented landscapes in WorldStrat's raw layout; all of it is simulated data."""

from .places import SIZES, simulate

__all__ = ["SIZES", "simulate"]
