"""The files of a run: its folder, checkpoints and metrics, and its model as others read it."""
