"""``python -m fewstep``: the command line, where its script is not on the path."""

from fewstep.cli import main

if __name__ == "__main__":
    main()
