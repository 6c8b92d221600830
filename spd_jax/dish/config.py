"""The settings of a dish: counts and names are static under jit, rates are leaves."""

import dataclasses
import math
from typing import Any, get_args

import jax
import numpy as np

from spd_jax.dish import losses
from spd_jax.errors import UserError
from spd_jax.motif import Labels, MotifFamily

CHOICES = {
    "inner_loss": tuple(losses.INNER_LOSSES),
    "inner_metric": ("loss", "true_class_probability", "standardised_loss"),
    "outer_loss": tuple(losses.OUTER_LOSSES),
    "targets": ("values", "ranks"),
    "gradient": ("full", "truncated", "evaluation_only"),
    "schedule": ("staircase", "cosine", "constant"),
    "remat": ("auto", "none", "step", "nested"),
    "inner_optimiser": ("adam", "sgd"),
}
LEAST = {  # the smallest whole number that a count may be
    "inner_steps": 1,
    "outer_steps": 0,
    "train_samples": 1,
    "valid_samples": 1,
    "ensemble_size": 1,
    "motif_batch": 2,
    "inner_batch_size": 0,
    "truncation": 0,
    "valid_every": 1,
}
SWITCHES = ("shared_data", "learn_labels", "shared_weights")


def static(default: Any) -> Any:
    """Return a field of a dataclass that jax registers: a change of its value compiles anew."""
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DishConfig:
    """Settings of a dish; the defaults are arXiv 2005.13092's table 2 (preset `paper`).

    A rate is a scalar, or an array `[E]` with one value for each ensemble member.

    Attributes:
      inner_steps: T, steps of every motif-network's training.
      outer_steps: Adam steps on the synthetic data.
      train_samples: N, synthetic samples to train on.
      valid_samples: synthetic samples to validate on; the first of them start
        equal to the train samples.
      ensemble_size: E, independent dishes; scores are medians over them.
      motif_batch: most motifs in one outer step; with more known, a fresh batch is
        drawn each step (appendix A.3.2).
      inner_batch_size: samples per inner step; 0 takes all.
      inner_loss: name in `losses.INNER_LOSSES`.
      inner_metric: what a score is: minus the validation "loss", the
        "true_class_probability", or minus the loss of the outputs scaled to a mean of 0 and a
        standard deviation of 3 ("standardised_loss", ours).
      outer_loss: name in `losses.OUTER_LOSSES`.
      targets: whether `fit` compares scores with the ground truths' "values" or with their
        "ranks", which no outlier and no skew of the truths moves (ours).
      gradient: outer gradient through the "full" inner training, through its last
        `truncation` steps ("truncated"), or through the validation alone.
      truncation: inner steps that "truncated" differentiates.
      shared_data: validate on the very samples that are trained on.
      learn_labels: learn the labels too; they are kept in [0, 1].
      schedule: the outer rate is multiplied by `decay` at each of `decay_steps`
        ("staircase"), falls to 0 as half a cosine, or is constant.
      decay_steps: outer steps at which "staircase" decays (the paper does not say;
        20 and 50 are the released program's).
      valid_every: outer steps between two looks at held-out motifs, for early stopping.
      remat: what the backward pass keeps: "none" differentiates plainly and keeps all;
        "step" keeps four vectors a step, "nested" about sqrt(T) of them; "auto" nests
        above 1,000 inner steps.
      inner_optimiser: what trains the motif-networks: "adam", as in the paper's experiments, or
        plain gradient descent, which is equation 1 ("sgd").
      shared_weights: start all motif-networks of a member from the same weights; else each from
        weights that are drawn for it.
      inner_learning_rate: step size of the inner optimiser, alpha of equation 1.
      inner_l2: factor of the sum of squared parameters, added to the inner loss.
      outer_learning_rate: step size of the outer Adam, beta of equation 3.
      outer_l2: factor of the sum of squared synthetic inputs, added to the outer loss.
      decay: multiplies the outer rate at every one of `decay_steps` under "staircase".
      init_scale: multiplies the family's initial weights.
    """

    inner_steps: int = static(250)
    outer_steps: int = static(60)
    train_samples: int = static(10)
    valid_samples: int = static(10)
    ensemble_size: int = static(1)
    motif_batch: int = static(40)
    inner_batch_size: int = static(0)
    inner_loss: str = static("binary_cross_entropy")
    inner_metric: str = static("loss")
    outer_loss: str = static("zscored_mse")
    targets: str = static("values")
    gradient: str = static("full")
    truncation: int = static(0)
    shared_data: bool = static(False)
    learn_labels: bool = static(False)
    schedule: str = static("staircase")
    decay_steps: tuple[int, ...] = static((20, 50))
    valid_every: int = static(5)
    remat: str = static("auto")
    inner_optimiser: str = static("adam")
    shared_weights: bool = static(True)
    inner_learning_rate: Any = 0.01
    inner_l2: Any = 1e-5
    outer_learning_rate: Any = 0.05
    outer_l2: Any = 1e-5
    decay: Any = 0.4
    init_scale: Any = 1.0


RATES = tuple(own.name for own in dataclasses.fields(DishConfig) if "static" not in own.metadata)


def check(config: DishConfig) -> None:
    """Refuse a setting that cannot be run.

    Raises:
      UserError: one sentence with the field's name and what is allowed.
    """
    for name, choices in CHOICES.items():
        value = getattr(config, name)
        if not (isinstance(value, str) and value in choices):
            raise UserError(f"{name}={value!r} is unknown: use one of {', '.join(choices)}")
    for name in SWITCHES:
        if not isinstance(getattr(config, name), bool | np.bool_):
            raise UserError(f"{name}={getattr(config, name)!r} must be True or False")
    for name, least in LEAST.items():
        _check_count(name, getattr(config, name), least)
    if not isinstance(config.decay_steps, tuple):
        raise UserError(f"decay_steps={config.decay_steps!r} must be a tuple of whole numbers")
    for step in config.decay_steps:
        _check_count("each of decay_steps", step, 0)
    _check_sizes(config)
    for name in RATES:
        _check_rate(name, getattr(config, name), config.ensemble_size)


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UserError(f"{name}={value!r} must be a whole number")
    if value < least:
        raise UserError(f"{name}={value} must be at least {least}")
    if value > np.iinfo(np.int32).max:
        raise UserError(f"{name}={value} must be at most {np.iinfo(np.int32).max}")


def _check_sizes(config: DishConfig) -> None:
    """Refuse counts that do not go together."""
    if config.inner_batch_size > config.train_samples:
        raise UserError(
            f"inner_batch_size={config.inner_batch_size} must lie between 0 (all samples) "
            f"and train_samples={config.train_samples}"
        )
    if config.gradient == "truncated" and not 1 <= config.truncation <= config.inner_steps:
        raise UserError(
            f"truncation={config.truncation} must lie between 1 and inner_steps="
            f"{config.inner_steps} when gradient=truncated"
        )
    if config.shared_data and config.valid_samples != config.train_samples:
        raise UserError(
            f"shared_data needs valid_samples={config.valid_samples} equal to "
            f"train_samples={config.train_samples}"
        )


def _check_rate(name: str, value: Any, ensemble_size: int) -> None:
    try:
        rate = np.asarray(value)
        real = jax.dtypes.issubdtype(rate.dtype, np.integer)
        real = real or jax.dtypes.issubdtype(rate.dtype, np.floating)
    except ValueError:  # nested lists of different lengths
        real = False
    if not real:
        raise UserError(
            f"{name}={value!r} must be a number, or one number for each ensemble member"
        )
    if rate.shape not in ((), (ensemble_size,)):
        raise UserError(
            f"{name} has shape {rate.shape}: give one value, or one for each of the "
            f"{ensemble_size} ensemble members"
        )
    rate = rate.astype(float)
    if not np.all((rate >= 0) & (rate <= np.finfo(np.float32).max)):  # also refuses NaN
        raise UserError(f"{name}={rate.tolist()} must be finite and not negative")


def check_family(family: MotifFamily) -> None:
    """Refuse a motif-network that no data can be drawn for.

    Raises:
      UserError: one sentence with the field's name and what is allowed.
    """
    if family.labels not in get_args(Labels):
        raise UserError(
            f"the family's labels={family.labels!r} are unknown: use one of "
            f"{', '.join(get_args(Labels))}"
        )
    for name in ("input_shape", "output_shape"):
        shape = getattr(family, name)
        whole = isinstance(shape, tuple) and all(
            isinstance(size, int | np.integer) and not isinstance(size, bool) and size >= 1
            for size in shape
        )
        if not whole:
            raise UserError(
                f"the family's {name}={shape!r} must be a tuple of whole numbers of at least 1"
            )
    for name in ("init", "apply"):
        if not callable(getattr(family, name)):
            raise UserError(f"the family's {name}={getattr(family, name)!r} must be a function")
    if family.labels == "balanced_classes" and not family.output_shape:
        raise UserError(
            "the family's output_shape=() has no axis for the classes: give balanced_classes one"
        )


def outer_rate_factor(config: DishConfig, step: jax.Array) -> jax.Array:
    """Return what multiplies the outer learning rate at outer step `step` (0 is the first).

    `decay` must be a scalar here (one member's).
    """
    jnp = jax.numpy
    if config.schedule == "staircase":
        passed = jnp.sum(step >= jnp.asarray(config.decay_steps, jnp.int32))
        return jnp.asarray(config.decay, jnp.float32) ** passed
    if config.schedule == "cosine":
        fraction = jnp.minimum(step / max(config.outer_steps, 1), 1)
        return 0.5 * (1 + jnp.cos(math.pi * fraction))
    return jnp.ones(())


def with_rates(config: DishConfig, rates: dict[str, jax.Array]) -> DishConfig:
    """Return the settings of one member: every rate a scalar of `rates`."""
    return dataclasses.replace(config, **rates)  # type: ignore[arg-type]
