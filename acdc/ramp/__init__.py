"""What ramp-workflow wants, made from a track; the only rooms that know ramp-workflow."""
