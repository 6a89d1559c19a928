"""Appendices A to K without a network: partition functions, noise, small beta, optimal and enumerated policies.

May import objective, paper and runs.
"""
