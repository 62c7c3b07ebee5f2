"""Scores as pure functions: arrays in, numbers out; no RAMP, no files."""
