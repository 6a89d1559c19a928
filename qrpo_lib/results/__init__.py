"""From recorded completions to the paper's tables, figures and verdicts: selection, statistics, claims.

May import experiment and all below it; knows nothing of suite.
"""
