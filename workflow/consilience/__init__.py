"""Explain image classifiers in three independent ways and cross-examine the answers.

Every algorithm of the workflow lives here and can be used without Snakemake.
A module is a noun of the field, its public functions are verbs.
"""

__version__ = "0.1.0"
