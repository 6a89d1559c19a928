"""Run folders: keys, atomic completion, records, shared work, progress, errors of one sentence, masked secrets.

Imports nothing else of this package.
"""
