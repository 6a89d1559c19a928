"""With this folder in PYTHONPATH, each Python process of a command has the fault that `$QRPO_FAULT` describes."""

import os
import sys
from pathlib import Path

if "QRPO_FAULT" in os.environ:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import points

    sys.path.pop(0)
    points.install(points.loads(os.environ["QRPO_FAULT"]))
