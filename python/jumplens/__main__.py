"""The program `jumplens`: what the Rust binary does."""

from __future__ import annotations

import sys

from . import _jumplens


def main() -> None:
    """Does what the command line says, and exits with the program's code."""
    sys.exit(_jumplens.main(["jumplens", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
