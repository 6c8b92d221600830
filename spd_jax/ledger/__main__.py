"""The command line of ledgers: list, export, merge, retry, repair and upgrade."""

import argparse
import contextlib
import math
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence

from spd_jax.errors import UserError
from spd_jax.ledger import STATUSES, EvaluationKey, Ledger, Purchase, table
from spd_jax.ledger.upgrade import upgrade

SQLITE = b"SQLite format 3"  # how every ledger's file begins
GIVEN = ("space", "task", "unit", "budget")  # what an old table may lack


def select(purchases: Iterable[Purchase], wanted: argparse.Namespace) -> list[Purchase]:
    """Return the rows that agree with the filters that are not `None`."""
    return [
        row
        for row in purchases
        if wanted.status in (None, row.evaluation.status)
        and all(getattr(wanted, name) in (None, value) for name, value in row.key._asdict().items())
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake becomes one sentence and exit status 1."""
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except UserError as error:
        sys.exit(printable(f"error: {error}"))
    except BrokenPipeError:  # `list FILE | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """Write characters that could steer a terminal as escapes: who wrote a ledger is unknown."""
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def counted(count: int, noun: str = "evaluation") -> str:
    """Return a number and its noun, in the plural where it must be."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _list(options: argparse.Namespace) -> None:
    with Ledger(options.file, read_only=True) as ledger:
        rows = select(ledger.purchases(), options)
    print("bought_at\tspace\ttask\tseed\tbudget\tparent\tstatus\tscore\tunit\tseconds\tcell\terror")
    for key, evaluation, bought_at in rows:
        why = evaluation.error.strip().splitlines()[-1:] or [""]
        fields = (
            *(bought_at, key.space, key.task, str(key.seed), str(key.budget), key.parent),
            *(evaluation.status, f"{evaluation.score:.5f}", evaluation.unit),
            *(f"{evaluation.seconds:.1f}", key.cell, why[0]),
        )
        print("\t".join(map(printable, fields)))
    failed = sum(row.evaluation.status == "failed" for row in rows)
    seconds = math.fsum(row.evaluation.seconds for row in rows)
    print(f"# {counted(len(rows))}, {failed} failed, {seconds:.1f} seconds")


def _export(options: argparse.Namespace) -> None:
    _check_target(options.csv)
    with Ledger(options.file, read_only=True) as ledger:
        rows = select(ledger.purchases(), options)
    table.write(
        options.csv,
        [(row.key, row.evaluation) for row in rows],
        {"command": f"python -m spd_jax.ledger export {options.file.name}"},
    )
    print(f"{counted(len(rows))} written to {options.csv}")


def _check_target(path: pathlib.Path) -> None:
    """Refuse to write a table over a ledger or a folder."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file: give the file to write")
    if path.exists():
        try:
            with path.open("rb") as stream:
                begins = stream.read(len(SQLITE))
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): give another file"
            ) from error
        if begins == SQLITE:
            raise UserError(f"{path} is a ledger, which stays: give another file")


def _retry(options: argparse.Namespace) -> None:
    options.status = "failed"
    with Ledger(options.file, read_only=True) as ledger:  # a missing file is not made
        rows = select(ledger.purchases(), options)
    with Ledger(options.file) as ledger:
        ledger.forget_failed(row.key for row in rows)
    print(
        f"{counted(len(rows), 'failed evaluation')} forgotten: a search that has not ended buys "
        f"{'it' if len(rows) == 1 else 'them'} anew; the record of one that has ended stays"
    )


def _repair(options: argparse.Namespace) -> None:
    with Ledger(options.file, read_only=True):  # a missing file is not made
        pass
    with Ledger(options.file) as ledger:
        count = ledger.forget_damaged()
    print(
        f"{counted(count, 'damaged evaluation')} forgotten: a search that has not ended buys "
        f"{'it' if count == 1 else 'them'} anew"
    )


def _merge(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        # All sources are opened first: a mistake in the last one must not leave half a merge.
        sources = [stack.enter_context(Ledger(path, read_only=True)) for path in options.sources]
        into = stack.enter_context(Ledger(options.into))
        for source in sources:
            added, known, conflicts = into.merge(source)
            were = "was" if known == 1 else "were"
            print(printable(f"{source.path}: {counted(added)} added, {known} {were} there"))
            if conflicts:
                have = "has" if len(conflicts) == 1 else "have"
                first = ", ".join(f"{name} {value!r}" for name, value in _named(conflicts[0]))
                print(
                    printable(
                        f"{source.path}: {counted(len(conflicts))} {have} another score in "
                        f"{into.path}, which stays (the first: {first})"
                    )
                )


def _named(key: EvaluationKey) -> list[tuple[str, str | int]]:
    return [(name, value) for name, value in key._asdict().items() if value != ""]


def _upgrade(options: argparse.Namespace) -> None:
    _check_target(options.new)
    values = {name: str(value) for name in GIVEN if (value := vars(options)[name]) is not None}
    count = upgrade(options.old, options.new, values)
    print(f"{counted(count)} written to {options.new}, equal to the bit to {options.old}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spd_jax.ledger", description=__doc__)
    names = "list|export|merge|retry|repair|upgrade"
    commands = parser.add_subparsers(required=True, metavar=names)
    filters = argparse.ArgumentParser(add_help=False)
    filters.add_argument("file", type=pathlib.Path, help="the ledger")
    for name in EvaluationKey._fields:
        kind = int if name in ("seed", "budget") else str
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
    repair = commands.add_parser(
        "repair", help="forget rows that are damaged, so that they are evaluated again"
    )
    repair.add_argument("file", type=pathlib.Path, help="the ledger")
    repair.set_defaults(run=_repair)
    older = commands.add_parser("upgrade", help="convert a CSV table of an older format")
    older.add_argument("old", type=pathlib.Path, help="the table to read")
    older.add_argument("new", type=pathlib.Path, help="the table to write")
    for name in GIVEN:
        kind = int if name == "budget" else str
        older.add_argument(f"--{name}", type=kind, help=f"{name} of every evaluation in the table")
    older.set_defaults(run=_upgrade)
    return parser


if __name__ == "__main__":
    main()
