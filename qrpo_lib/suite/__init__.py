"""What people start: notebooks and their parameters, the command line, plan, downloads, the results site.

May import experiment and all below it; knows nothing of results, which notebooks import themselves.
"""
