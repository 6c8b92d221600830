"""The folder of one run: what was asked, with which versions, and how to go on after a kill."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.studies import machine, settings

T = TypeVar("T")
LAYOUT = 3  # of the files in a folder; those of 0.2 and before had no number
# What reading a damaged file raises, or a parser that meets other data than were written.
DAMAGE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
SEAL = "checksum"  # name of it in a file that is read again
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def open_folder(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    may_grow: tuple[str, ...] = (),
) -> Iterator["RunFolder"]:
    """Begin a run, or go on with one of the same settings, alone until the block ends.

    What may be resumed: a run whose config.json holds the same settings as `config`; those in
    `may_grow` may be larger, which extends the run. Nothing is written before that is known
    and before the folder is locked. The system holds the lock, so that a kill frees it.

    Args:
      path: the folder; made when missing.
      config: plain data that decides the results, see `settings.described`.
      may_grow: names of settings that may be larger than before.

    Yields:
      The folder, with config.json and versions.json written.

    Raises:
      UserError: the folder cannot be written, another process works in it, or it holds a run
        of other settings, of another experiment, or of an older layout.
    """
    folder = RunFolder(pathlib.Path(path))
    with _locked(folder.path):
        config = {"layout": LAYOUT, **json.loads(json.dumps(config))}
        before = _config(folder.path / "config.json")
        if before is not None:
            _refuse_changes(folder.path, before, config, may_grow)
        folder.write_json("config.json", config)
        folder.write_json("versions.json", machine.versions())
        yield folder


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Hold the folder's lock; the file stays behind, the lock does not."""
    lock = path / ".lock"
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if os.path.islink(lock) or os.path.isdir(lock):
            raise UserError(f"{lock} is no plain file: delete it, or use another folder") from error
        raise UserError(
            f"cannot write in {path} ({error.strerror}): give a folder that you may write to"
        ) from error
    with os.fdopen(descriptor, "rb", buffering=0):  # closes it at the end of the block
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{lock} is no plain file: delete it, or use another folder")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process works in {path}: wait until it has ended, or use another folder"
            ) from error
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error.strerror}): use a folder on another file system"
            ) from error
        yield


def _config(path: pathlib.Path) -> dict[str, Any] | None:
    """Return the settings of an earlier run in the folder, if there was one."""
    try:
        return settings.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        raise UserError(
            f"{path} cannot be read: delete it to go on with the same settings as before, or use "
            "another folder"
        ) from error


def _refuse_changes(
    path: pathlib.Path,
    before: Mapping[str, Any],
    config: Mapping[str, Any],
    may_grow: tuple[str, ...],
) -> None:
    """Refuse to go on with other settings than before, and name one that differs."""
    if before.get("layout") != LAYOUT:
        other = "another version of spd_jax" if "layout" in before else "spd_jax 0.2 or older"
        raise UserError(
            f"{path} holds a run of {other}, whose files have another layout: use another folder, "
            "and copy its ledger.sqlite there, if it has one, so that nothing is bought twice"
        )
    if before.get("study") != config.get("study"):
        raise UserError(f"{path} holds a run of another experiment: use another folder")
    differ = settings.differing(before, config, may_grow)
    if differ:
        name, (old, new) = next(iter(differ.items()))
        raise UserError(
            f"{path} holds a run with {name}={json.dumps(old)}, not {json.dumps(new)}: use its "
            "settings to go on with it, or another folder"
        )


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder in which everything is written in one piece; see `open_folder`."""

    path: pathlib.Path

    def write_json(self, name: str, content: Any) -> pathlib.Path:
        """Write plain data to the file `name` of the folder."""
        files.write_text(self.path / name, json.dumps(content, indent=1, allow_nan=False) + "\n")
        return self.path / name

    def keep_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write plain data that `read_json` reads, with a checksum.

        A flipped byte in a number would else be another result that nobody notices.
        """
        self.write_json(name, {**content, SEAL: _seal(content)})

    def read_json(self, name: str, parse: Callable[[Any], T]) -> T | None:
        """Return `parse` of what `keep_json` wrote, or `None` where it is to be made anew.

        That is where there is none, and where it is damaged, which is said.

        Args:
          name: of the file.
          parse: takes the plain data; one of `DAMAGE` that it raises, such as a UserError, means
            that they are not what was written.
        """
        path = self.path / name
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text, parse_constant=_refuse_constant)
            if content.pop(SEAL) != _seal(content):
                raise ValueError("its checksum is another")
            return parse(content)
        except FileNotFoundError:
            return None
        except DAMAGE as error:
            logger.warning("%s is damaged (%r) and made anew", path, error)
            return None

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one JSON object to metrics.jsonl, with a checksum."""
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as stream:
                stream.write(_sealed_line(line))
        except OSError as error:
            raise UserError(
                f"{self.path / 'metrics.jsonl'} cannot be written ({error.strerror}): free some "
                "space and run the same command again"
            ) from error

    def keep_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the lines that `keep` refuses: what a killed run did after its last saved state.

        A last line that the kill cut short is dropped too.
        """
        if (self.path / "metrics.jsonl").is_file():
            self.write_metrics(self.metrics(keep))

    def metrics(self, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl that `keep` takes; damaged ones are left out."""
        path, kept = self.path / "metrics.jsonl", []
        if not path.is_file():
            return []
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text, parse_constant=_refuse_constant)
                if line.pop(SEAL) == _seal(line) and keep(line):
                    kept.append(line)
            except DAMAGE:
                continue
        return kept

    def write_metrics(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write metrics.jsonl anew, whatever it held."""
        text = "".join(map(_sealed_line, lines))
        files.write_text(self.path / "metrics.jsonl", text)


def _sealed_line(line: Mapping[str, Any]) -> str:
    plain = files.to_json(line)
    return json.dumps({**plain, SEAL: _seal(plain)}) + "\n"


def _seal(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that plain data decide."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which are no JSON and which `write_json` never writes."""
    raise ValueError(f"{name} is no JSON")
