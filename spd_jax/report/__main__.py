"""The command line of pages: `python -m spd_jax.report RUN_FOLDER [...]` writes report.html."""

import argparse
import sys
from collections.abc import Sequence

from spd_jax.errors import UserError
from spd_jax.report import page


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake becomes one sentence and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m spd_jax.report",
        description="Write one page of a run, or of several side by side, that needs nothing else.",
    )
    parser.add_argument("folder", nargs="+", help="folder of a run (--workdir of an experiment)")
    parser.add_argument(
        "--output", help="the file; default: report.html in the folder, or here if several"
    )
    options = parser.parse_args(arguments)
    try:
        print(f"wrote {page.write(options.folder, options.output)}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
