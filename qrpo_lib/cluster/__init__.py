"""Where jobs run: this process, processes that stay, or SLURM, with a table of how far they are.

May import profiles, runs and what those may import; knows no step.
"""
