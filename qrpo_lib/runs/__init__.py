"""Run folders: what determines a result (`keys`), making it once (`folders`), `records`, `paths`, shared work (`shards`),
progress, errors of one sentence, masked secrets.

Imports nothing else of this package.
"""
