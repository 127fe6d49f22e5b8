"""The tables and figures of GrassWalk and GrassJump (arXiv 2510.01878) and of SubTrack-Grad
(arXiv 2502.01586), one file for each.

    python -m experiments.papers.ablation --scale cpu --list

`trained` is a run of `pretrain`, `scales` says how large it is, `experiment` what a table is, and
`tables`, `drawing` and `command` are what all of them share.
"""
