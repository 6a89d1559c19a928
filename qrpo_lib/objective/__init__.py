"""The method in three files: quantile rewards, transformations f with their log Z_f, and the losses.

Equations 8, 9 and 11, Table 4, Appendices B and F. NumPy and torch alone; imports nothing else of this package.
"""
