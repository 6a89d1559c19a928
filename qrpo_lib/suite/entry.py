"""What the command `qrpo` starts: the command line, or how to install what it needs."""

from __future__ import annotations

import sys

from qrpo_lib.runs import extras


def main(arguments: list[str] | None = None) -> int:
    """Run one command of `qrpo_lib.suite.cli`; 2 where an extra of the package is missing."""
    try:
        with extras.needed():
            from qrpo_lib.suite import cli

            return cli.main(arguments)
    except extras.MissingExtraError as error:
        print(f"qrpo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
