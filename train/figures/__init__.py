"""The command `figures`: the papers' figures of runs."""
