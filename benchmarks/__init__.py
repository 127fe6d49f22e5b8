"""What the library costs, beside other optimizers: benchmarks/README.md says which command answers
which question.
"""

import os

# Threads of one contestant that spin while they have nothing to do take the cores from the next:
# let them sleep. Read when PyTorch and NumPy are imported.
SLEEPING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}
for _name, _value in SLEEPING_THREADS.items():
    os.environ.setdefault(_name, _value)
