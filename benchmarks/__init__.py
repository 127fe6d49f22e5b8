"""Cost of the library compared with other optimizers. benchmarks/README.md lists the commands."""

import os

# Idle threads that spin take the cores from the next contestant, so let them sleep. The variables
# are read when PyTorch and NumPy are imported.
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}
for _name, _value in SLEEPING_THREADS.items():
    os.environ.setdefault(_name, _value)
