"""The command line of ledgers: `python -m spd_jax.ledger list|export|merge|retry`."""

import argparse
import contextlib
import math
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence

from spd_jax.errors import UserError
from spd_jax.ledger import STATUSES, Ledger, Purchase
from spd_jax.ledger import table as cell_table

SQLITE = b"SQLite format 3"  # how every ledger's file begins


def select(purchases: Iterable[Purchase], wanted: argparse.Namespace) -> list[Purchase]:
    """Return the rows that agree with the filters that are not `None`."""
    names = ("space", "task", "cell", "seed", "budget")
    return [
        row
        for row in purchases
        if wanted.status in (None, row.evaluation.status)
        and all(getattr(wanted, name) in (None, getattr(row.key, name)) for name in names)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake becomes one sentence and exit status 1."""
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # `list FILE | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _list(options: argparse.Namespace) -> None:
    with Ledger(options.file, read_only=True) as ledger:
        rows = select(ledger.purchases(), options)
    print("bought_at\tspace\ttask\tseed\tbudget\tstatus\tscore\tseconds\tcell\terror")
    for (space, cell, task, seed, budget), evaluation, bought_at in rows:
        why = evaluation.error.strip().splitlines()[-1:] or [""]
        print(
            f"{bought_at}\t{space}\t{task}\t{seed}\t{budget}\t{evaluation.status}\t"
            f"{evaluation.score:.5f}\t{evaluation.seconds:.1f}\t{cell}\t{why[0]}"
        )
    failed = sum(row.evaluation.status == "failed" for row in rows)
    seconds = math.fsum(row.evaluation.seconds for row in rows)
    print(f"# {len(rows)} evaluations, {failed} failed, {seconds:.1f} seconds")


def _export(options: argparse.Namespace) -> None:
    if options.csv.exists() and not options.csv.is_file():
        raise UserError(f"--csv={options.csv} is no file: give the file to write")
    if options.csv.exists():
        try:
            with options.csv.open("rb") as stream:
                begins = stream.read(len(SQLITE))
        except OSError as error:
            raise UserError(
                f"--csv={options.csv} cannot be read ({error.strerror}): give another file"
            ) from error
        if begins == SQLITE:
            raise UserError(f"--csv={options.csv} is a ledger, which stays: give another file")
    with Ledger(options.file, read_only=True) as ledger:
        rows = select(ledger.purchases(), options)
    cell_table.write(
        options.csv,
        [(row.key, row.evaluation) for row in rows],
        {"command": f"python -m spd_jax.ledger export {options.file.name}"},
    )
    print(f"{len(rows)} evaluations written to {options.csv}")


def _retry(options: argparse.Namespace) -> None:
    options.status = "failed"
    with Ledger(options.file, read_only=True) as ledger:  # a missing file is not made
        rows = select(ledger.purchases(), options)
    with Ledger(options.file) as ledger:
        ledger.forget_failed(row.key for row in rows)
    print(
        f"{len(rows)} failed evaluations forgotten: a search that has not ended buys them anew; "
        "the record of one that has ended stays"
    )


def _merge(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        # All sources are opened first: a mistake in the last one must not leave half a merge.
        sources = [stack.enter_context(Ledger(path, read_only=True)) for path in options.sources]
        into = stack.enter_context(Ledger(options.into))
        for source in sources:
            added, known, conflicts = into.merge(source)
            print(f"{source.path}: {added} evaluations added, {known} were there")
            if conflicts:
                space, cell, task, seed, budget = conflicts[0]
                print(
                    f"{source.path}: {len(conflicts)} evaluations have another score in "
                    f"{into.path}, which stays (the first: {space} {cell!r}, task {task}, "
                    f"seed {seed}, budget {budget})"
                )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spd_jax.ledger", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="list|export|merge|retry")
    filters = argparse.ArgumentParser(add_help=False)
    filters.add_argument("file", type=pathlib.Path, help="the ledger")
    for name, kind in (
        ("space", str),
        ("task", str),
        ("cell", str),
        ("seed", int),
        ("budget", int),
    ):
        filters.add_argument(f"--{name}", type=kind, help=f"only of this {name}")
    status = argparse.ArgumentParser(add_help=False)
    status.add_argument("--status", choices=STATUSES, help="only of this status")
    both = [filters, status]
    show = commands.add_parser("list", parents=both, help="print one line per evaluation")
    show.set_defaults(run=_list)
    export = commands.add_parser("export", parents=both, help="write a CSV table")
    export.add_argument("--csv", type=pathlib.Path, required=True, help="the file to write")
    export.set_defaults(run=_export)
    merge = commands.add_parser("merge", help="add ledgers to one; of equal keys its own stays")
    merge.add_argument("into", type=pathlib.Path, help="the ledger that grows; made when missing")
    merge.add_argument("sources", type=pathlib.Path, nargs="+", help="ledgers that are read")
    merge.set_defaults(run=_merge)
    retry = commands.add_parser(
        "retry", parents=[filters], help="forget what failed, so that it is evaluated again"
    )
    retry.set_defaults(run=_retry)
    return parser


if __name__ == "__main__":
    main()
