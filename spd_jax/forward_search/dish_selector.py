"""A Synthetic Petri Dish as the selector: every candidate trains alone in a tiny network. Ours.

The two methods share nothing but a word; here they meet. The dish is untrained: its samples and
labels are random, as in Rawal et al., figure 4. It knows a candidate from what the operation
does to a network that learns, and sees neither the task's images nor the parent's weights.
"""

import dataclasses
import functools
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax import dish
from spd_jax.axes import Array, Key
from spd_jax.dish import DishConfig
from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.image_net import ImageNet
from spd_jax.forward_search.scope import Scope, Spec, Weights
from spd_jax.forward_search.weak import Growth
from spd_jax.motif import MotifFamily

FILTERS = 2  # width of the tiny network
CONFIG = DishConfig(
    inner_steps=15,
    inner_learning_rate=0.03,
    train_samples=20,
    valid_samples=20,
    shared_data=True,
    ensemble_size=2,
    inner_loss="softmax_cross_entropy",
)


@functools.lru_cache(maxsize=64)
def family(net: ImageNet, arch: Arch, slots: tuple[str, ...]) -> MotifFamily:
    """Return the parent with all candidates as a motif-network; a motif says which one counts.

    A motif is, by slot, factors of the candidates `[E]`: one candidate is 1, all others are 0.

    Args:
      net: widths.
      arch: of the parent.
      slots: that have candidates.
    """
    growth = Growth(slots, coupling="soft")
    specs = _recorded(net, arch, growth).specs
    given = {path: spec for path, spec in specs.items() if not _is_decided(path)}

    def init(key: Key) -> Weights:
        return {path: _drawn(key, path, spec) for path, spec in given.items()}

    def apply(params: Weights, motif: Mapping[str, Array], inputs: Array) -> Array:
        factors = {f"alpha/{slot}": motif[slot] for slot in slots}
        gates = {path: jnp.ones(()) for path in specs if path.startswith("gate/")}
        scope = Scope({**params, **factors, **gates}, {}, training=True)
        return net.logits(scope, arch, inputs, growth)[0]

    # A network that is mapped over motifs would be one of grouped convolutions, which CPUs
    # compute slowly; "branching" has them trained one after another there.
    return MotifFamily(
        init, apply, net.image_shape, (net.classes,), "balanced_classes", branching=True
    )


def _recorded(net: ImageNet, arch: Arch, growth: Growth) -> Scope:
    """Return what a network asked for and counted."""
    scope = Scope({}, {}, training=True)
    images = jax.ShapeDtypeStruct((2, *net.image_shape), jnp.float32)
    jax.eval_shape(lambda x: net.logits(scope, arch, x, growth)[0], images)
    return scope


def _is_decided(path: str) -> bool:
    """Return whether a motif says what a weight is."""
    return path.startswith(("alpha/", "gate/"))


def _drawn(key: Key, path: str, spec: Spec) -> Array:
    """Draw a weight as `scope.draw` does, inside a traced function."""
    if spec.init in ("zeros", "ones"):
        return jnp.zeros(spec.shape) if spec.init == "zeros" else jnp.ones(spec.shape)
    deviation = {"normal": 2.0, "lecun": 1.0}[spec.init] / spec.fan_in
    own = jax.random.fold_in(key, zlib.crc32(path.encode()))
    return jnp.sqrt(deviation) * jax.random.normal(own, spec.shape)


def motifs(arch: Arch, slots: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return one motif for each candidate of each slot, in this order: `[M, E]` by slot."""
    counts = [len(arch.candidates(slot)) for slot in slots]
    eye, ends = np.eye(sum(counts), dtype=np.float32), np.cumsum(counts)
    return dict(zip(slots, np.split(eye, ends[:-1], axis=1), strict=True))


def scores(
    seed: int, net: ImageNet, arch: Arch, slots: tuple[str, ...], config: DishConfig = CONFIG
) -> dict[str, np.ndarray]:
    """Return what the dish says of every candidate, higher is better.

    Args:
      seed: of its weights, samples and labels.
      net: of the search; the tiny network is narrower.
      arch: of the parent.
      slots: that have candidates.
      config: of the dish.

    Returns:
      By slot float64 `[E]`: minus the loss after the inner training, median over the members.
    """
    own = family(*_tiny(net, arch), slots)
    state = dish.init(jax.random.key(seed), own, config)
    found = np.asarray(dish.predict(state, own, config, motifs(arch, slots)), float)
    ends = np.cumsum([len(arch.candidates(slot)) for slot in slots])
    return dict(zip(slots, np.split(found, ends[:-1]), strict=True))


def cost(net: ImageNet, arch: Arch, slots: tuple[str, ...], config: DishConfig = CONFIG) -> float:
    """Return samples times multiply-adds that `scores` computes, forward passes of training."""
    costs = _recorded(*_tiny(net, arch), Growth(slots, coupling="soft")).costs
    count = sum(len(arch.candidates(slot)) for slot in slots)
    steps = config.inner_steps * config.train_samples * config.ensemble_size
    return float(count * steps * sum(costs.values()))


def _tiny(net: ImageNet, arch: Arch) -> tuple[ImageNet, Arch]:
    """Return a narrow network, in a cell search with one cell of each kind."""
    tiny = dataclasses.replace(net, filters=FILTERS, drop_path=0.0, auxiliary=0.0)
    kinds = arch.slots if arch.search == "cell" else arch.kinds
    return tiny, dataclasses.replace(arch, kinds=kinds)
