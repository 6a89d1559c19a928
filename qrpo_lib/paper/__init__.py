"""What the paper says and how it looks: its claims, its published numbers, the style of figures and tables.

May import runs.
"""
