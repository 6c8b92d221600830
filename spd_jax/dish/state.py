"""What a dish is made of: its state, how it starts, and which of its data is learned."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spd_jax.axes import Array, Key, Params
from spd_jax.dish import inner_loop
from spd_jax.dish.config import DishConfig, check, check_family
from spd_jax.dish.inner_loop import SyntheticData
from spd_jax.motif import MotifFamily

UNDECIDED = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DishState:
    """All that a resumed run needs.

    Attributes:
      params: initial weights theta_init of each member, leaves `[E, ...]` float32.
      data: synthetic data, fields `[E, N, ...]` float32.
      optimiser: outer Adam's state.
      key: key `[]` that the state was drawn from; minibatches and motif batches fold it.
      step: outer steps taken, int32 `[]`.
      stop_step: outer steps to take in all, int32 `[]`; -1 while early stopping looks for it.
      best_step: outer step of the smallest held-out loss so far, int32 `[]`.
      best_loss: that loss, float32 `[]`.
      sign: +1 or -1 for each member, float32 `[E]`; -1 only under |Pearson|.
      mean: each member's mean raw score over the known motifs, float32 `[E]`; 0 unfitted.
      std: their standard deviation, float32 `[E]`; 1 unfitted.
    """

    params: Params
    data: SyntheticData
    optimiser: Any
    key: Key
    step: Array
    stop_step: Array
    best_step: Array
    best_loss: Array
    sign: Array
    mean: Array
    std: Array


class OuterInfo(NamedTuple):
    """What one outer step reports.

    Attributes:
      loss: outer loss of each member, before the step, `[E]`, without L2.
      scores: raw scores `[E, M]`, before the step.
      masked: motifs left out because their score or gradient was not finite, int32 `[E]`.
    """

    loss: Array
    scores: Array
    masked: Array


def init(key: Key, family: MotifFamily, config: DishConfig) -> DishState:
    """Draw a dish: weights, inputs N(0, 1), and labels by the family's law.

    Within a member all motif-networks start from the same weights; the valid
    samples start equal to the train samples.

    Args:
      key: kept in the state.
      family: the motif-network.
      config: settings.

    Returns:
      A state that predicts already (Rawal et al., figure 4): its score is the
      median raw score.

    Raises:
      UserError: a setting that cannot be run, or a family that no data can be drawn for.
    """
    check(config)
    check_family(family)
    size = config.ensemble_size
    scales = jnp.broadcast_to(jnp.asarray(config.init_scale, jnp.float32), (size,))

    def member(key: Key, scale: Array) -> tuple[Params, SyntheticData]:
        params_key, inputs_key, labels_key = jax.random.split(key, 3)
        params = jax.tree.map(lambda p: scale * p, family.init(params_key))
        count = max(config.train_samples, config.valid_samples)
        inputs = jax.random.normal(inputs_key, (count, *family.input_shape))
        labels = _draw_labels(labels_key, family, count)
        train, valid = config.train_samples, config.valid_samples
        return params, SyntheticData(inputs[:train], labels[:train], inputs[:valid], labels[:valid])

    params, data = jax.vmap(member)(jax.random.split(key, size), scales)
    return DishState(
        params=params,
        data=data,
        optimiser=outer_adam().init(learned_fields(data, config)),
        key=key,
        step=jnp.zeros((), jnp.int32),
        stop_step=jnp.asarray(UNDECIDED, jnp.int32),
        best_step=jnp.zeros((), jnp.int32),
        best_loss=jnp.asarray(jnp.inf, jnp.float32),
        sign=jnp.ones(size),
        mean=jnp.zeros(size),
        std=jnp.ones(size),
    )


def unfitted(state: DishState) -> DishState:
    """Return the state with a standardisation that changes nothing: it predicts raw scores."""
    ones = jnp.ones_like(state.sign)
    return dataclasses.replace(state, sign=ones, mean=jnp.zeros_like(ones), std=ones)


def _draw_labels(key: Key, family: MotifFamily, count: int) -> Array:
    if family.labels == "bernoulli":
        return jax.random.bernoulli(key, 0.5, (count, *family.output_shape)).astype(jnp.float32)
    classes = family.output_shape[-1]
    size = count * int(np.prod(family.output_shape[:-1], dtype=int))
    labels = jax.random.permutation(key, jnp.arange(size) % classes)
    return jax.nn.one_hot(labels, classes).reshape(count, *family.output_shape)


def outer_adam() -> optax.GradientTransformation:
    """Return the outer optimiser without its rate: Adam with the inner loop's constants."""
    return optax.scale_by_adam(
        inner_loop.ADAM_BETA1,
        inner_loop.ADAM_BETA2,
        eps=inner_loop.ADAM_EPS,
        eps_root=inner_loop.ADAM_EPS_ROOT,
    )


def learned_fields(data: SyntheticData, config: DishConfig) -> dict[str, Array]:
    """Return the fields of the data that the outer loop learns."""
    names = ["train_inputs"] if config.shared_data else ["train_inputs", "valid_inputs"]
    if config.learn_labels:
        names += [name.replace("inputs", "labels") for name in names]
    return {name: getattr(data, name) for name in names}


def with_learned(
    data: SyntheticData, learned: dict[str, Array], config: DishConfig
) -> SyntheticData:
    """Put learned fields back; shared data keeps both halves the same."""
    data = data._replace(**learned)
    if config.shared_data:
        data = data._replace(valid_inputs=data.train_inputs, valid_labels=data.train_labels)
    return data
