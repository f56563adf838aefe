"""Explain image classifiers in three independent ways and cross-examine the answers.

Every algorithm of the workflow lives here and can be used without Snakemake.
A module is a noun of the field, its public functions are verbs.
"""

__version__ = "0.1.0"

import gc
import sys

# A step imports all it needs before it does anything, and none of that goes: looking through it for
# what can go takes a fifth of the time. ``steps.logged`` turns this on again.
if type(getattr(sys.modules["__main__"], "snakemake", None)).__name__ == "Snakemake":
    gc.disable()
