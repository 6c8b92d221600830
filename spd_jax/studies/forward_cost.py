"""What a preset's phases cost here: one compiled step of each at full size, timed.

Images and tokens are random: a step costs the same, and no data are needed.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.forward_search import buying, training
from spd_jax.forward_search import scope as scope_lib
from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.image_model import Batch
from spd_jax.forward_search.text_model import Batch as TextBatch
from spd_jax.studies.forward_settings import (
    ForwardSettings,
    image_model,
    seed_arch,
    text_model,
    training_of,
)

SHAPES = {"digits": (8, 8, 1), "cifar10": (32, 32, 3)}
GREY, CLASSES, VOCABULARY, TOKENS = (28, 28, 1), 10, 10_000, 929_589
TIMED = 3  # steps that are timed, after one that is not


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase at full size.

    Attributes:
      name: "seed", "weak" or "child".
      arch: text of the network.
      multiply_adds: of one image or token, candidates included.
      parameters: likewise.
      compile_seconds: of the step.
      step_seconds: median.
      mebibytes: of the step: arguments, results and temporary arrays, as the compiler counts.
      items_per_second: training images or tokens.
      epochs: of the phase.
      hours: what so many epochs would take at this pace.
    """

    name: str
    arch: str
    multiply_adds: float
    parameters: int
    compile_seconds: float
    step_seconds: float
    mebibytes: float
    items_per_second: float
    epochs: int
    hours: float


def measure(settings: ForwardSettings) -> list[Phase]:
    """Take real steps of the seed's training, a weak training and a child's; time them.

    Raises:
      UserError: a step does not fit into memory.
    """
    seed = seed_arch(settings)
    child = seed.grown({slot: _typical(seed, slot) for slot in seed.slots})
    phases = (
        ("seed", seed, (), settings.seed_epochs),
        ("weak", seed, seed.slots, settings.weak_epochs),
        ("child", child, (), settings.child_epochs),
    )
    return [_guarded(settings, *phase) for phase in phases]


def _guarded(
    settings: ForwardSettings, name: str, arch: Arch, slots: tuple[str, ...], epochs: int
) -> Phase:
    try:
        return _measure(settings, name, arch, slots, epochs)
    except Exception as error:
        if buying.is_out_of_memory(error):
            raise buying.too_large(f"a step of the {name} phase") from None
        raise


def _typical(arch: Arch, slot: str) -> list[Any]:
    """Return three edges of a new learner: one separable convolution, and two others."""
    edges = arch.candidates(slot)
    return list(dict.fromkeys(edges[place] for place in (0, len(edges) // 2, len(edges) - 2)))


def _model_and_data(settings: ForwardSettings) -> tuple[Any, Any, np.ndarray, int, int]:
    """Return a model, random data of one batch, its index, items and steps of an epoch."""
    generator = np.random.default_rng(0)
    size = settings.batch_size
    if settings.search == "rnn":
        shape = (1, settings.sequence_length, size)
        tokens = jnp.asarray(generator.integers(0, VOCABULARY, shape), jnp.int32)
        steps = (settings.train_tokens or TOKENS) // (size * settings.sequence_length)
        text = TextBatch(tokens, tokens, jnp.asarray(True))
        model = text_model(settings, VOCABULARY)
        return model, text, np.zeros(1, np.int32), size * settings.sequence_length, steps
    height, width, channels = SHAPES.get(settings.dataset, GREY)
    if settings.halved:
        height, width = height // 2, width // 2
    images = generator.normal(size=(size, height, width, channels)).astype(np.float32)
    labels = generator.integers(0, CLASSES, size).astype(np.int32)
    data = Batch(jnp.asarray(images), jnp.asarray(labels))
    index = np.arange(size, dtype=np.int32)[None]
    networks = image_model(settings, (height, width, channels), CLASSES)
    return networks, data, index, size, settings.train_images // size


def _measure(
    settings: ForwardSettings, name: str, arch: Arch, slots: tuple[str, ...], epochs: int
) -> Phase:
    model, data, index, items, steps = _model_and_data(settings)
    optimiser = training_of(settings, _Counted(1), "", 0).optimiser
    need = training.recorded(model, arch, slots, optimiser.coupling)
    state = training.start(
        scope_lib.draw(0, need.weights), scope_lib.draw(0, need.averages), optimiser
    )
    state = jax.device_put(state)
    schedule = training.Schedule(
        np.full(1, settings.learning_rate, np.float32),
        np.zeros(1, np.float32),
        np.float32(settings.penalty),
        np.float32(1.0),
    )
    static = {"model": model, "arch": arch, "slots": slots, "optimiser": optimiser}
    arguments = (data, index, jax.random.key(0), schedule)
    began = time.perf_counter()
    step = training.train_steps.lower(state, *arguments, **static).compile()
    compiled = time.perf_counter() - began
    seconds = []
    for _ in range(1 + TIMED):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, *arguments))
        seconds.append(time.perf_counter() - began)
    pace = float(np.median(seconds[1:]))
    return Phase(
        name, str(arch), need.multiply_adds, need.parameters, compiled, pace, _memory(step),
        items / pace, epochs, pace * steps * epochs / 3600,
    )  # fmt: skip


def _memory(step: Any) -> float:
    """Return the mebibytes that a compiled step needs, NaN where the compiler does not say."""
    found = step.memory_analysis()
    if found is None:
        return float("nan")
    sizes = (
        found.temp_size_in_bytes,
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        -found.alias_size_in_bytes,
    )
    return float(sum(sizes)) / 2**20


@dataclasses.dataclass(frozen=True)
class _Counted:
    """Stands for a problem where only its number of images is asked for."""

    count: int
