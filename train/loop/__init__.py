"""The training loop, and a run around it, whatever it learns."""
