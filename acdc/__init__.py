"""RAMP-ACDC: finding craters on Mars and super-resolving satellite images truthfully."""

__version__ = "0.1.0"
