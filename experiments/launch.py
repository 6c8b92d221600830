"""From flags to one settings dataclass, and how a main begins and ends."""

import dataclasses
import os
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from absl import app, flags, logging

from spd_jax.dish import DishConfig, check
from spd_jax.dish.config import CHOICES
from spd_jax.errors import UserError
from spd_jax.studies import machine
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.settings import Setting

WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run; default runs/<experiment>")
DEVICES = flags.DEFINE_integer(
    "cpu_devices",
    os.cpu_count(),
    "host devices that motifs are spread over on CPU",
    lower_bound=1,
    upper_bound=1024,
)
T = TypeVar("T")
Presets = Mapping[str, Mapping[str, Any]]  # by name: values of the fields that a preset decides
RENAMED = {"ensemble_size": "num_dishes"}  # fields of DishConfig whose flag has another name


def run_main(main: Callable[[], None]) -> None:
    """Run an absl main; a user's mistake becomes one sentence and exit status 1."""

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            sys.exit(f"error: {argv[1]!r} is no flag: write --name=value")
        jax.config.update("jax_num_cpu_devices", DEVICES.value)
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the next run need not compile
            jax.config.update("jax_compilation_cache_dir", str(machine.ROOT / ".jax_cache"))
        try:
            main()
        except UserError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("interrupted: the same command goes on from here", file=sys.stderr)
            sys.exit(130)

    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("experiments."):  # so that --help shows these, too
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(guarded)


def workdir(default: str) -> pathlib.Path:
    """Return the run folder that was asked for."""
    if WORKDIR.value == "":
        raise UserError("--workdir is empty: give a folder")
    return pathlib.Path(WORKDIR.value or default)


def folder_of_data(given: str) -> str | None:
    """Return a data_dir as the library takes it: None for "download"."""
    if not given:
        raise UserError("--data_dir is empty: give the folder of the data, or download")
    return None if given == "download" else given


def define(
    kind: type,
    presets: Presets = types.MappingProxyType({}),
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Define one flag for every field of a settings dataclass, and of its dish.

    Args:
      kind: a dataclass whose fields were made by `studies.settings.setting`.
      presets: what each preset decides; its values stand in the help.
      flag_values: where to define them.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        known: Setting = field.metadata["setting"]
        if hints[field.name] is DishConfig:
            _define_dish(presets, flag_values)
            continue
        words = known.help + _of_presets(presets, field.name)
        given = None if known.by_preset else field.default
        _define(known.flag or field.name, hints[field.name], given, words, known, flag_values)


def _define_dish(presets: Presets, flag_values: flags.FlagValues) -> None:
    """Define the flags of `DishConfig`; none is given by default."""
    words = settings_lib.attribute_help(DishConfig)
    for field in dataclasses.fields(DishConfig):
        values = {
            name: settings_lib.to_json(preset["dish"])[field.name]
            for name, preset in presets.items()
        }
        help_ = f"of the dish: {words[field.name]} ({_listed(values)})"
        known = Setting(help_, choices=CHOICES.get(field.name, ()))
        kind = type(field.default)
        if kind in (float, tuple):  # rates, and the steps at which they decay
            kind = tuple
        _define(RENAMED.get(field.name, field.name), kind, None, help_, known, flag_values)


def _define(
    name: str, hint: Any, default: Any, words: str, known: Setting, values: flags.FlagValues
) -> None:
    """Define one flag of the kind that a type hint asks for."""
    options: dict[str, Any] = {"flag_values": values}
    bounds = {"lower_bound": known.at_least, "upper_bound": known.at_most}
    kind = _plain(hint)
    if known.choices:
        flags.DEFINE_enum(name, default, list(known.choices), words, **options)
    elif kind is bool:
        flags.DEFINE_bool(name, default, words, **options)
    elif kind is int:
        flags.DEFINE_integer(name, default, words, **bounds, **options)
    elif kind is float:
        flags.DEFINE_float(name, default, words, **bounds, **options)
    elif kind is tuple:
        listed = None if default is None else [str(item) for item in default]
        flags.DEFINE_list(name, listed, words, **options)
    else:
        flags.DEFINE_string(name, default, words, **options)


def _plain(hint: Any) -> Any:
    """Return the class behind a type hint: `int` of `int | None`, `tuple` of `tuple[int, ...]`."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return typing.get_origin(hint) or hint


def _of_presets(presets: Presets, field: str) -> str:
    values = {name: preset[field] for name, preset in presets.items() if field in preset}
    return f" ({_listed(values)})" if values else ""


def _listed(values: Mapping[str, Any]) -> str:
    """Return `best: 6, paper: 200`, or one value where all presets agree."""
    texts = {name: str(value) for name, value in values.items()}
    if len(set(texts.values())) == 1:
        return f"all presets: {next(iter(texts.values()))}"
    return ", ".join(f"{name}: {text}" for name, text in texts.items())


def read(
    kind: type[T],
    presets: Presets = types.MappingProxyType({}),
    preset: str = "",
    flag_values: flags.FlagValues = flags.FLAGS,
) -> T:
    """Return the settings that the flags give.

    Args:
      kind: the dataclass that `define` was given.
      presets: likewise.
      preset: name of the field that chooses the preset; empty where there is none.
      flag_values: where the flags were defined.

    Raises:
      UserError: a value that is no number, or settings that cannot be run; flags are named.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    known = settings_lib.of(kind)
    decided: Mapping[str, Any] = {}
    if preset:
        flag = known[preset].flag or preset
        chosen = flag_values[flag].value
        if chosen not in presets:
            raise UserError(f"--{flag}={chosen} is unknown: use one of {', '.join(presets)}")
        decided = presets[chosen]
    for name, own in known.items():
        if hints[name] is DishConfig:
            values[name] = _read_dish(decided["dish"], flag_values)
            continue
        flag = own.flag or name
        value = flag_values[flag].value
        if value is None and name in decided:
            value = decided[name]
        elif _plain(hints[name]) is tuple and value is not None:
            value = _numbers(flag, value, typing.get_args(hints[name])[0])
        values[name] = value
    settings = kind(**values)
    with_flags(
        {name: own.flag or name for name, own in known.items()}, settings_lib.check, settings
    )
    return settings


def _read_dish(preset: DishConfig, flag_values: flags.FlagValues) -> DishConfig:
    """Return `preset` with every flag that the user gave put in."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(DishConfig):
        flag = RENAMED.get(field.name, field.name)
        value = flag_values[flag].value
        if value is None:
            continue
        if isinstance(value, list):
            whole = field.name == "decay_steps"
            value = _numbers(flag, value, int if whole else float)
            value = value[0] if len(value) == 1 and not whole else value
        given[field.name] = value
    config = dataclasses.replace(preset, **given)
    names = {
        field.name: RENAMED.get(field.name, field.name) for field in dataclasses.fields(config)
    }
    with_flags(names, check, config)
    return config


def _numbers(flag: str, words: Sequence[str], kind: Any) -> tuple[Any, ...]:
    if kind is str or kind is Any:
        return tuple(words)
    try:
        return tuple(kind(word) for word in words)
    except ValueError as error:
        raise UserError(f"--{flag}={','.join(words)}: give numbers, separated by commas") from error


def with_flags(names: Mapping[str, str], call: Callable[[Any], Any], argument: Any) -> Any:
    """Return `call(argument)`; a user's mistake names fields by their flags."""
    try:
        return call(argument)
    except UserError as error:
        sentence = str(error)
        for name, flag in names.items():
            if sentence.startswith(f"{name}="):
                sentence = f"--{flag}{sentence.removeprefix(name)}"
            elif name != flag:
                sentence = sentence.replace(name, flag)
        raise UserError(sentence) from error
