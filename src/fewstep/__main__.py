"""Where ``fewstep`` and ``python -m fewstep`` begin."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit, without a traceback also where it is interrupted before all of it is loaded."""
    try:
        from fewstep.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
