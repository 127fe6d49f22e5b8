"""The command `evaluate`: loss and bits per byte of a text."""
