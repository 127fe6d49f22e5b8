"""The programs that a run compiles: optimizer, training step, sharding."""
