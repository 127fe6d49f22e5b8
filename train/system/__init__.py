"""Processes, signals, files and devices."""
