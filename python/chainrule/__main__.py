"""``python -m chainrule``: what build systems ask; any other argument goes to the ``chainrule`` command."""

import sys
from collections.abc import Callable

from chainrule import __version__, get_cmake_dir, get_include

ANSWERS: dict[str, Callable[[], str]] = {
    "--includes": lambda: f"-I{get_include()}",
    "--cmakedir": get_cmake_dir,
    "--version": lambda: __version__,
}


def main(arguments: list[str]) -> int:
    """Print the answer to each flag, in order, or run the command."""
    if arguments and all(argument in ANSWERS for argument in arguments):
        sys.stdout.writelines(f"{ANSWERS[argument]()}\n" for argument in arguments)
        return 0
    from chainrule.cli import main as command

    return command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
