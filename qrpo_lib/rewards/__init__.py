"""Rewards of completions: `models` (relevance, reward models), `tests` (the share passed); `sandbox` runs the code.

May import models, profiles and what those may import; knows no task.
"""
