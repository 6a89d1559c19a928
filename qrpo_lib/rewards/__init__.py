"""Rewards of completions: relevance, reward models, the share of tests passed; `sandbox` runs code against tests.

May import models, profiles and what those may import; knows no task.
"""
