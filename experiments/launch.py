"""From flags to one settings dataclass, and how a main begins and ends."""

import _thread
import dataclasses
import errno
import os
import pathlib
import re
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from absl import app, flags, logging

import experiments
from spd_jax import problems
from spd_jax.dish import DishConfig
from spd_jax.dish.config import CHOICES, RATES
from spd_jax.errors import UserError
from spd_jax.ground_truth.executors import Workers
from spd_jax.problems import Problem
from spd_jax.studies import machine
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.settings import Setting, setting

MOST_DEVICES = 1024
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run; default runs/<experiment>")
DEVICES = flags.DEFINE_integer(
    "cpu_devices",
    min(machine.cores(), MOST_DEVICES),
    "host devices that motifs are spread over on CPU",
    lower_bound=1,
    upper_bound=MOST_DEVICES,
)
T = TypeVar("T")
Presets = Mapping[str, Mapping[str, Any]]  # by name: values of the fields that a preset decides
# Fields of DishConfig whose flag has another name.
RENAMED = {"ensemble_size": "num_dishes", "gradient": "outer_gradient"}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, a quota, a limit of file sizes


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """Settings of an experiment that buys ground truths: who trains them."""

    workers: int = setting(0, "processes that train; 0 trains in this one", at_least=0, free=True)
    scheduler: str | None = setting(
        None, "address of a running Dask scheduler whose workers train, see docs/cluster.md",
        free=True,
    )  # fmt: skip
    time_limit: float | None = setting(
        None,
        "seconds that an evaluation may take before it is recorded as failed; needs workers; "
        "default: any",
        free=True,
    )

    @property
    def trained_by(self) -> Workers:
        """Return what `GroundTruth` calls its workers.

        Raises:
          UserError: both are given, or the scheduler's address is none.
        """
        if self.scheduler is not None and self.workers:
            raise UserError("--scheduler brings workers of its own: leave --workers out")
        if self.scheduler is not None and ":" not in self.scheduler:
            raise UserError(
                f"--scheduler={self.scheduler} is no address: give what `dask scheduler` printed, "
                "such as tcp://host:8786"
            )
        return self.scheduler or self.workers


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; `args[0]` is the signal's number."""


def run_main(main: Callable[[], None]) -> None:
    """Run an absl main and end the process as a command should.

    The exit status is 0 when all went well; 1 after a user's mistake or on a full disk, which
    is one sentence; 130 after Ctrl-C and 143 after SIGTERM, which are one sentence, too. A
    defect of ours keeps its traceback.
    """

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is no flag: write --name=value")
        jax.config.update("jax_num_cpu_devices", DEVICES.value)
        if "workers" in flags.FLAGS and flags.FLAGS.workers:  # they share the accelerators
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the next run need not compile
            jax.config.update("jax_compilation_cache_dir", str(machine.ROOT / ".jax_cache"))
        main()

    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("experiments."):  # so that --help shows these, too
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    sys.unraisablehook = _interrupt_again
    try:
        experiments.handle(_interrupt)
        app.run(guarded, flags_parser=_parse)
    except UserError as error:
        sys.exit(f"error: {_with_flags(str(error), _flag_of)}")
    except KeyboardInterrupt as error:
        # Everything is closed, but XLA may still compute: threads that outlive what the
        # interpreter frees as it ends would end in a segmentation fault.
        sys.stdout.flush()
        experiments.leave(error.args[0] if isinstance(error, Interrupted) else signal.SIGINT, None)
    except OSError as error:
        if error.errno not in FULL:
            raise
        sys.exit(f"error: {error}: free some space and run the same command again")


def _interrupt(number: int, frame: Any) -> None:
    raise Interrupted(number)


def _interrupt_again(unraisable: Any) -> None:
    """Interrupt again, a moment later, where a callback of the interpreter swallowed it."""
    if isinstance(unraisable.exc_value, Interrupted):
        again = threading.Timer(0.01, _thread.interrupt_main, unraisable.exc_value.args)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def _parse(argv: list[str]) -> list[str]:
    """Parse the flags; one that is unknown or not allowed is a user's mistake."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error


def workdir(default: str) -> pathlib.Path:
    """Return the run folder that was asked for."""
    if WORKDIR.value == "":
        raise UserError("--workdir is empty: give a folder")
    return pathlib.Path(WORKDIR.value or default)


def refuse_without_effect(ignored: Mapping[Sequence[str], tuple[bool, str]]) -> None:
    """Refuse a flag that was given and would decide nothing.

    Args:
      ignored: by names of flags whether they are ignored, and why, with what to do.
    """
    for names, (is_ignored, words) in ignored.items():
        for name in names:
            if is_ignored and flags.FLAGS[name].present:
                raise UserError(f"--{name} has no effect, since {words}")


def folder_of_data(given: str) -> str | None:
    """Return a data_dir as the library takes it: None for "download"."""
    if not given:
        raise UserError("--data_dir is empty: give the folder of the data, or download")
    return None if given == "download" else given


def dish_presets(problem: Problem) -> dict[str, dict[str, Any]]:
    """Return what the presets of a problem's dish decide."""
    return {
        name: {"dish": dish, "hidden_size": problem.hidden_size}
        for name, dish in problem.dish_presets.items()
    }


def every_dish_preset() -> dict[str, dict[str, Any]]:
    """Return what the presets of all problems decide, for the help of an experiment on any.

    Of problems that share their presets, as the variants of a cell do, the first stands for all.
    """
    every = [problems.get(name) for name in problems.names()]
    own = {id(problem.dish_presets): problem for problem in every[::-1]}
    return {
        f"{problem.name} {preset}": decided
        for problem in own.values()
        for preset, decided in dish_presets(problem).items()
    }


def define(
    kind: type,
    presets: Presets = types.MappingProxyType({}),
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Define one flag for every field of a settings dataclass, and of its dish.

    Args:
      kind: a dataclass whose fields all have defaults and were made by `studies.settings.setting`.
      presets: what each preset decides; its values stand in the help.
      flag_values: where to define them.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        known: Setting = field.metadata["setting"]
        if hints[field.name] is DishConfig:
            _define_dish(presets, flag_values)
            continue
        values = {
            name: preset[field.name] for name, preset in presets.items() if field.name in preset
        }
        words = known.help + _of_presets(values)
        given = None if known.by_preset else field.default
        _define(field.name, hints[field.name], given, words, known, flag_values)
    _flag_of.update(_flags_of(kind))


def _flags_of(kind: type) -> dict[str, str]:
    """Return the flag of every field of a settings dataclass, and of its dish."""
    own = {name: known.flag or name for name, known in settings_lib.of(kind).items()}
    if DishConfig not in typing.get_type_hints(kind).values():
        return own
    fields = [field.name for field in dataclasses.fields(DishConfig)]
    return own | {name: RENAMED.get(name, name) for name in fields}


def _define_dish(presets: Presets, flag_values: flags.FlagValues) -> None:
    """Define the flags of `DishConfig`; none is given by default."""
    words = settings_lib.attribute_help(DishConfig)
    for field in dataclasses.fields(DishConfig):
        values = {
            name: settings_lib.to_json(getattr(preset["dish"], field.name))
            for name, preset in presets.items()
        }
        known = Setting(
            f"of the dish: {words[field.name]}{_of_presets(values)}",
            choices=CHOICES.get(field.name, ()),
            flag=RENAMED.get(field.name, ""),
        )
        # A rate may have a value for each member of the ensemble.
        kind = tuple if field.name in RATES else type(field.default)
        _define(field.name, kind, None, known.help, known, flag_values)


def _define(
    name: str, hint: Any, default: Any, words: str, known: Setting, values: flags.FlagValues
) -> None:
    """Define one flag of the kind that a type hint asks for."""
    options: dict[str, Any] = {"flag_values": values}
    bounds: dict[str, Any] = {"lower_bound": known.at_least, "upper_bound": known.at_most}
    kind, flag = settings_lib.kinds(hint)[0], known.flag or name
    if kind is tuple:
        listed = None if default is None else [str(item) for item in default]
        flags.DEFINE_list(flag, listed, words, **options)
    elif known.choices:
        flags.DEFINE_enum(flag, default, list(known.choices), words, **options)
    elif kind is bool:
        flags.DEFINE_bool(flag, default, words, **options)
    elif kind is int:
        bounds["upper_bound"] = settings_lib.largest(name, known)
        flags.DEFINE_integer(flag, default, words, **bounds, **options)
    elif kind is float:
        flags.DEFINE_float(flag, default, words, **bounds, **options)
    else:
        flags.DEFINE_string(flag, default, words, **options)


def _of_presets(values: Mapping[str, Any]) -> str:
    """Return ` (best: 6, paper: 200)` for a help text, or one value where all presets agree."""
    texts = {name: str(value) for name, value in values.items()}
    if not texts:
        return ""
    if len(texts) > 1 and len(set(texts.values())) == 1:
        return f" (all presets: {next(iter(texts.values()))})"
    return f" ({', '.join(f'{name}: {text}' for name, text in texts.items())})"


def read(
    kind: type[T],
    presets: Presets = types.MappingProxyType({}),
    preset: str = "",
    flag_values: flags.FlagValues = flags.FLAGS,
    *,
    default_preset: str = "",
) -> T:
    """Return the settings that the flags give.

    Args:
      kind: the dataclass that `define` was given.
      presets: likewise.
      preset: name of the field that chooses the preset; empty where there is none.
      flag_values: where the flags were defined.
      default_preset: the one to take where that field's flag is empty.

    Raises:
      UserError: a value that is no number, or settings that cannot be run; flags are named.
    """
    hints, known = typing.get_type_hints(kind), settings_lib.of(kind)
    decided: Mapping[str, Any] = {}
    if preset:
        flag = known[preset].flag or preset
        chosen = str(flag_values[flag].value or default_preset)
        if chosen not in presets:
            raise UserError(f"--{flag}={chosen} is unknown: use one of {', '.join(presets)}")
        decided = presets[chosen]
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        default, hint = decided.get(field.name, field.default), hints[field.name]
        if hint is DishConfig:
            values[field.name] = _read_dish(default, flag_values)
            continue
        flag = known[field.name].flag or field.name
        value = flag_values[flag].value
        if isinstance(value, list):
            value = _items(flag, value, settings_lib.kinds(hint)[1])
        values[field.name] = default if value is None else value
    if preset:
        values[preset] = chosen
    settings = kind(**values)
    try:
        settings_lib.check(settings)
    except UserError as error:
        raise UserError(_with_flags(str(error), _flags_of(kind))) from error
    return settings


def _read_dish(preset: DishConfig, flag_values: flags.FlagValues) -> DishConfig:
    """Return `preset` with every flag that the user gave put in."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(DishConfig):
        flag = RENAMED.get(field.name, field.name)
        value = flag_values[flag].value
        if isinstance(value, list):
            rate = field.name in RATES
            value = _items(flag, value, float if rate else int)
            value = value[0] if rate and len(value) == 1 else value
        if value is not None:
            given[field.name] = value
    return dataclasses.replace(preset, **given)


def _items(flag: str, words: Sequence[str], kind: type) -> tuple[Any, ...]:
    """Return the items of a list, each of a kind: numbers or texts."""
    try:
        return tuple(kind(word) for word in words)
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise UserError(f"--{flag}={','.join(words)}: give {what}, separated by commas") from error


_flag_of: dict[str, str] = {}  # by field, of all settings that `define` was given


def _with_flags(sentence: str, flag_of: Mapping[str, str]) -> str:
    """Return a sentence of the library in which `field=value` is written `--flag=value`.

    >>> _with_flags("seed=-1 must be at least 0", {"seed": "seed"})
    '--seed=-1 must be at least 0'
    """

    def written(found: re.Match[str]) -> str:
        name, equals = found.groups()
        flag = flag_of.get(name, name)
        # Without a value after it, a word that is also a flag may be a plain English one.
        return f"--{flag}{equals}" if name in flag_of and (equals or flag != name) else found[0]

    sentence = sentence.replace("data_dir=None", "data_dir=download")  # see `folder_of_data`
    # What stands in quotes is what the user wrote.
    return re.sub(r"(?<![\w.'-])(\w+)\b(=?)", written, sentence)
