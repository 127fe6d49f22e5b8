"""The command `pretrain`: the training loop and the files of a run."""
