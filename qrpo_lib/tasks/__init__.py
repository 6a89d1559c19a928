"""Prompts, splits, data and rewards: the suite's generated and written tasks, and the paper's datasets.

Each task's data file lies beside it. May import rewards, models, profiles and what those may import.
"""
