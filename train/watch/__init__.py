"""Watching a run: trackers, and the report."""
