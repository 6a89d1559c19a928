"""The steps of the pipeline, one kind a file: each has `step` (what determines it) and `run` (its folder).

May import tasks and all below it; knows no result, notebook or grid.
"""
