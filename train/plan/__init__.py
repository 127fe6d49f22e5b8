"""The command `plan`: memory and traffic of a training step on devices that are not present."""
