"""Run folders: what determines a result (`keys`), making it once (`folders`), `records`, `paths`, shared work.

Also progress, errors of one sentence, and masked secrets.

Imports nothing else of this package.
"""

IS_INFRASTRUCTURE = True  # all modules here: they move results around (`qrpo_lib.runs.code_version`)
