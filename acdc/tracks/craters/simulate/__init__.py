"""An invented Mars in the format of real raw data; see docs/simulated-mars.md for its physics."""

from .planet import simulate

__all__ = ["simulate"]
