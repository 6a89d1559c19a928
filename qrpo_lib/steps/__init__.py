"""The steps of the pipeline, one kind a file: `step` (what determines it, how it is made) and `run` (its folder).

May import tasks and all below it; knows no result, notebook or grid.
"""
