"""One absl flag for every setting of a dish, and back."""

import dataclasses
from typing import Any

from absl import flags

from spd_jax.dish import DishConfig, check
from spd_jax.dish import config as config_lib
from spd_jax.errors import UserError

_HELP = "dish setting, default by the preset of the dish; see spd_jax.dish.DishConfig"


def define(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define `--inner_steps`, `--outer_loss`, ...; `ensemble_size` is `--num_dishes`.

    A rate takes one number, or one for each dish, separated by commas.
    """
    for field in dataclasses.fields(DishConfig):
        name, default = flag_name(field.name), field.default
        options: dict[str, Any] = {"flag_values": flag_values}
        if field.name in config_lib.CHOICES:
            flags.DEFINE_enum(name, None, config_lib.CHOICES[field.name], _HELP, **options)
        elif isinstance(default, bool):
            flags.DEFINE_bool(name, None, _HELP, **options)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, None, _HELP, **options)
        else:  # rates, and the steps at which they decay
            flags.DEFINE_list(name, None, _HELP, **options)


def flag_name(field: str) -> str:
    """Return the flag of a field of DishConfig."""
    return "num_dishes" if field == "ensemble_size" else field


def read(preset: DishConfig, flag_values: flags.FlagValues = flags.FLAGS) -> DishConfig:
    """Return `preset` with every flag that the user gave put in.

    Raises:
      UserError: a value that is no number, or settings that cannot be run.
    """
    given: dict[str, Any] = {}
    for field in dataclasses.fields(DishConfig):
        value = flag_values[flag_name(field.name)].value
        if value is None:
            continue
        if isinstance(value, list):
            number = int if field.name == "decay_steps" else float
            try:
                numbers = tuple(number(part) for part in value)
            except ValueError as error:
                raise UserError(
                    f"--{field.name}={','.join(value)}: give numbers, separated by commas"
                ) from error
            single = field.name != "decay_steps" and len(numbers) == 1
            value = numbers[0] if single else numbers
        given[field.name] = value
    config = dataclasses.replace(preset, **given)
    try:
        check(config)
    except UserError as error:  # in the user's words: settings by the names of their flags
        raise UserError(str(error).replace("ensemble_size", flag_name("ensemble_size"))) from error
    return config
