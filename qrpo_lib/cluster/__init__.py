"""One scheduler for tasks that need one another, and where their jobs run: processes that stay, one each, or SLURM.

May import profiles, runs and what those may import; knows no step.
"""

IS_INFRASTRUCTURE = True  # all modules here: they move results around (`qrpo_lib.runs.code_version`)
