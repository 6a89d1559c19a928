"""Grids of runs: which runs a profile asks for, the jobs they need, and reading them back.

May import steps, cluster and all below them.
"""
