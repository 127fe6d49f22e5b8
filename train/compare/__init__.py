"""The command `compare`: several runs of `pretrain`, a table and a plot."""
