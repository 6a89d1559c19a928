"""The method in three files, `quantile`, `transforms` (f and log Z_f) and `losses`; QRPO's relatives beside them.

Equations 8, 9 and 11, Table 4, Appendices B and F. NumPy, SciPy and torch alone; imports nothing else of this package.
"""
