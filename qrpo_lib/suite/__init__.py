"""What people start: notebooks and their parameters, the command line, plan, downloads, the results site.

May import experiment and all below it; knows nothing of results, which notebooks import themselves.
"""

IS_INFRASTRUCTURE = True  # all modules here: they move results around (`qrpo_lib.runs.code_version`)
