"""Completions of a policy, by transformers here or by vLLM in a process of its own.

May import objective, paper and runs.
"""
