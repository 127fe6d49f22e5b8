"""The settings of a run: flags, the table of optimizers, config.json, validation."""
