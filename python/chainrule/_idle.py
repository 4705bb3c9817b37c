"""How long OpenMP's idle threads wait awake for the next piece of work: GOMP_SPINCOUNT, read when libgomp is loaded.

Its default is 3 ms. When anything else wants one of the cores, our threads meet on another one, and there a thread that
waits awake keeps off the CPU the very thread it waits for, at every region. Beside one compiler on two cores, a step of
gradient and Adam (NADE, 784 x 500) took 16 + 8 ms by that default, 8.4 + 0.9 by ours; alone it takes 3.6 + 0.3,
on one thread 7.0 + 0.4. After 0.15 ms a thread sleeps; nothing that follows sooner gets slower.
"""

import os

SPINS = "10000"

_chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
if not _chosen:
    os.environ["GOMP_SPINCOUNT"] = SPINS
try:
    from chainrule import _kernels  # noqa: F401  (loads libgomp)
finally:
    if not _chosen:
        del os.environ["GOMP_SPINCOUNT"]
