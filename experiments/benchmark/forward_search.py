"""The benchmark of forward search: one search network, forward and backward, against PyTorch.

The three ways to compute a separable convolution stand side by side, so that the default form of
each device is a measurement. XLA and PyTorch get the same cores, batch, weights and images.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from experiments.benchmark import growth as benchmark_growth
from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.forward_search import ops, training
from spd_jax.forward_search import scope as scope_lib
from spd_jax.forward_search.arch import Arch, seed
from spd_jax.forward_search.image_model import Batch, ImageModel
from spd_jax.forward_search.image_net import ImageNet
from spd_jax.forward_search.scope import Scope, Weights
from spd_jax.forward_search.weak import Growth

TORCH = "PyTorch eager"
TOLERANCE = 1e-3  # of losses and gradients that must agree, relative
PHASES = ("seed", "weak", "child")  # of a search; "weak" has all candidates
BAR, AIM = 1.0, 2.0  # images/s, as a multiple of PyTorch's


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
      side: of the square images, three channels.
      filters: F.
      transitions: of the network with one normal cell at each size.
      stem_stride: of the stem.
      batch: images.
      rounds: times that everything has its turn.
    """

    side: int = 32
    filters: int = 8
    transitions: int = 2
    stem_stride: int = 2
    batch: int = 64
    rounds: int = 7


QUICK = Plan(side=8, filters=2, transitions=0, batch=8, rounds=1)


def measure(plan: Plan, phase: str) -> dict[str, Any]:
    """Time the network of one of `PHASES` in every form; return the part of summary.json.

    The sizes are preset cifar10_cpu's. PyTorch is left out where it is not installed.

    Raises:
      UserError: two ways compute different losses or gradients.
    """
    generator = np.random.default_rng(0)
    shape = (plan.batch, plan.side, plan.side, 3)
    images = generator.normal(size=shape).astype(np.float32)
    labels = generator.integers(0, 10, plan.batch).astype(np.int32)
    timed = _measure(plan, phase, images, labels)
    return {**dataclasses.asdict(plan), **timed, "bar": BAR, "aim": AIM}


def network_of(plan: Plan, phase: str) -> tuple[ImageNet, Arch, tuple[str, ...]]:
    """Return widths, architecture and slots with candidates of a phase."""
    net = ImageNet((plan.side, plan.side, 3), 10, plan.filters, stem_stride=plan.stem_stride)
    arch = seed("cell", 1, plan.transitions)
    if phase == "child":
        edges = {slot: arch.candidates(slot) for slot in arch.slots}
        arch = arch.grown({slot: [own[0], own[8], own[11]] for slot, own in edges.items()})
    return net, arch, arch.slots if phase == "weak" else ()


def _measure(plan: Plan, phase: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    net, arch, slots = network_of(plan, phase)
    need = training.recorded(ImageModel(net, plan.batch), arch, slots)
    weights = scope_lib.draw(0, need.weights)
    # A new learner counts nothing and has no gradient.
    weights |= {path: np.ones_like(x) for path, x in weights.items() if path.endswith("/eta")}
    calls: dict[str, Callable[[], Any]] = {}
    for form in ops.CONV_FORMS:
        own = dataclasses.replace(net, conv_form=form)
        calls[form] = functools.partial(
            _step, weights, Batch(images, labels), net=own, arch=arch, slots=slots
        )
    threads = None
    if importlib.util.find_spec("torch"):
        from experiments.benchmark.peers import torch_forward_search as peer

        threads = peer.threads()
        calls[TORCH] = peer.make_step(
            net, arch, slots, weights, images, labels, kept=checked(weights)
        )
    check_same({name: call() for name, call in calls.items()})
    seconds = benchmark_growth.rounds(calls, plan.rounds)
    return {
        "arch": str(arch),
        "multiply_adds": need.multiply_adds,
        "parameters": need.parameters,
        "torch_threads": threads,
        "seconds": seconds,
        "images_per_second": {
            name: metrics.spread(np.divide(plan.batch, own["values"]))
            for name, own in seconds.items()
        },
    }


@functools.partial(
    jax.jit,
    static_argnames=("net", "arch", "slots"),
    compiler_options=training.COMPILER_OPTIONS,
)
def _step(
    weights: Weights, batch: Batch, *, net: ImageNet, arch: Arch, slots: tuple[str, ...]
) -> tuple[Any, Weights]:
    """Return the loss and all gradients."""
    growth = Growth(slots) if slots else None
    averages = training.recorded(ImageModel(net, len(batch.labels)), arch, slots).averages

    def loss(own: Weights) -> Any:
        start = {path: np.zeros(spec.shape, np.float32) for path, spec in averages.items()}
        scope = Scope(own, start, True, jax.random.key(0))
        return ImageModel(net).loss(scope, arch, batch, growth)

    return jax.value_and_grad(loss)(weights)


def check_same(found: dict[str, Any]) -> None:
    """Check that all ways agree on the loss and on the gradients of `checked`.

    Args:
      found: by name, a loss and gradients by path.

    Raises:
      UserError: they do not: speeds of different problems do not compare.
    """
    first, *others = found
    loss, gradients = found[first]
    for name in others:
        own_loss, own = found[name]
        pairs = [(loss, own_loss), *((gradients[x], own[x]) for x in checked(gradients))]
        for one, other in pairs:
            scale = float(np.max(np.abs(one)))
            if not np.allclose(one, other, rtol=0, atol=TOLERANCE * scale):
                raise UserError(f"{name} and {first} disagree: mend them before timing them")


def checked(paths: Iterable[str]) -> list[str]:
    """Return the paths whose gradients must agree: of what stands at both ends, and of alphas.

    The stem's needs the whole backward pass, and an alpha's the candidates.
    """
    return [x for x in paths if x in ("stem/kernel", "head/dense") or x.startswith("alpha/")]
