"""The track of super-resolution: Sentinel-2 at 10 m to SPOT 6/7 at 2.5 m."""
