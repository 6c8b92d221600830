"""The benchmark's third part: how near the dish comes to what this machine can do.

Arithmetic is counted in four kinds: simple (add, subtract, multiply), exp, divide and sqrt. The
same mix of them, on long vectors that stay in cache and on all devices, says what is attainable.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.growth import outer_program, over, rounds, slopes, start, widest
from spd_jax import dish
from spd_jax.axes import Array
from spd_jax.dish import DishConfig
from spd_jax.dish.devices import CPU_CHUNK
from spd_jax.spaces import sigmoid_slope

SIMPLE = ("add", "sub", "mul", "add_any", "integer_pow")
CHAINS = 16  # independent values of one element: they hide the latency of each operation
# Vectors of P floats that every inner step must move. Predict: theta, mu and nu, in and out. The
# outer gradient: also what is kept for the way back (theta, gradient, mu, nu), out and in, and
# the three cotangents of the carry, in and out.
LEAST_VECTORS = {"predict": 6, "outer_gradient": 20}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much to measure.

    Attributes:
      predict_motifs: motifs of one `predict`, a multiple of its chunk.
      fit_motifs: motifs of one outer step.
      inner_steps: T.
      loops: passes of a kernel over its vector.
      rounds: times that everything is measured.
    """

    predict_motifs: int = 8_192
    fit_motifs: int = 256
    inner_steps: int = 250
    loops: int = 200
    rounds: int = 7


QUICK = Plan(8, 18, 9, 2, 2)


def inner_step_arithmetic(inputs: int, hidden: int, outputs: int, samples: int) -> Counter[str]:
    """Return the least arithmetic of one inner step of one sigmoid motif-network, with biases.

    With P = (D+1)H + (H+1)H + (H+1)C parameters and W = DH + HH + HC weights:

    * forward: 2NW (biases included) + 2NH for the slopes; N(2H+C) sigmoids, each one
      exp, one add and one divide (a change of sign is free);
    * d loss / d logits, (sigmoid - label) / NC: 2NC;
    * weights (2N-1)W, biases (N-1)(2H+C);
    * back through layers 3 and 2: NH(2C-1) + NH(2H-1); through the two sigmoid(c z),
      c s (1 - s) times what comes in: 4 times 2NH;
    * L2 and Adam: 14P, one sqrt and one divide for each parameter.

    Args:
      inputs: D.
      hidden: H.
      outputs: C.
      samples: N.
    """
    d, h, c, n = inputs, hidden, outputs, samples
    parameters = (d + 1) * h + (h + 1) * h + (h + 1) * c
    weights, units = d * h + h * h + h * c, 2 * h + c
    forward = 2 * n * weights + 2 * n * h + n * units
    backward = 2 * n * c + (2 * n - 1) * weights + (n - 1) * units
    backward += n * h * (2 * c - 1) + n * h * (2 * h - 1) + 8 * n * h
    return Counter(
        simple=forward + backward + 14 * parameters,
        exp=n * units,
        divide=n * units + parameters,
        sqrt=parameters,
    )


def count(jaxpr: Any) -> Counter[str]:
    """Count the arithmetic of a jaxpr by kind; whatever no result depends on is left out."""
    total: Counter[str] = Counter()
    needed = set(filter(_is_variable, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if needed.isdisjoint(equation.outvars):
            continue
        needed.update(filter(_is_variable, equation.invars))
        total.update(_count_equation(equation))
    return total


def _count_equation(equation: Any) -> Counter[str]:
    name, size = equation.primitive.name, math.prod(equation.outvars[0].aval.shape)
    first = equation.invars[0].aval.shape if equation.invars else ()
    if inner := list(_inner_jaxprs(equation)):
        times = equation.params.get("length", 1)
        return Counter({kind: times * n for kind, n in count(inner[0]).items()})
    if name == "dot_general":
        summed = math.prod(first[axis] for axis in equation.params["dimension_numbers"][0][0])
        return Counter(simple=size * (2 * summed - 1))
    if name == "reduce_sum":
        return Counter(simple=math.prod(first) - size)
    if name == "logistic":
        return Counter(simple=size, exp=size, divide=size)
    kinds = dict.fromkeys(SIMPLE, "simple") | {"div": "divide", "exp": "exp", "sqrt": "sqrt"}
    return Counter({kinds[name]: size}) if name in kinds else Counter()


def _is_variable(atom: Any) -> bool:
    return not hasattr(atom, "val")


def _inner_jaxprs(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def scan_bodies(jaxpr: Any) -> Iterator[Any]:
    """Yield the body of every scan: what happens once an inner step."""
    for equation in jaxpr.eqns:
        for inner in _inner_jaxprs(equation):
            if equation.primitive.name == "scan":
                yield inner
            else:
                yield from scan_bodies(inner)


def outer_gradient_arithmetic(config: DishConfig, motifs: int) -> Counter[str]:
    """Return the arithmetic of one inner step there and back, for all motifs together.

    Counted from what the dish hands to XLA: the bodies of the scan forward and of the scan back.
    """
    family = sigmoid_slope.family()
    archs = slopes(motifs)
    jaxpr = jax.make_jaxpr(dish.outer_step, static_argnums=1)(
        start(config), family, config, archs, -archs
    )
    total: Counter[str] = Counter()
    for body in scan_bodies(jaxpr.jaxpr):
        total.update(count(body))
    return total


def mixed(x: Array, a: float, b: float, mix: dict[str, int]) -> Array:
    """Do a mix of operations on every element of `x` and return as many elements."""
    step: dict[str, Callable[[Array], Array]] = {
        "multiply_add": lambda u: u * a + b,
        "sigmoid": lambda u: 1 / (1 + jnp.exp(-u)),
        "divide": lambda u: a / (u + 1),
        "sqrt": jnp.sqrt,
    }
    # Evenly mixed: every kind comes up again after its share of the others.
    order = sorted(((i + 0.5) / n, kind) for kind, n in mix.items() for i in range(n))
    chains = [x + b * i for i in range(CHAINS)]
    for place, (_, kind) in enumerate(order):
        chains[place % CHAINS] = step[kind](chains[place % CHAINS])
    return functools.reduce(jnp.add, chains) * a


def mix_of(arithmetic: Counter[str], root_count: int = 4) -> dict[str, int]:
    """Return how often `mixed` does what, so that its kinds stand in the given proportion."""
    scaled = {kind: n * root_count / arithmetic["sqrt"] for kind, n in arithmetic.items()}
    divides = max(scaled["divide"] - scaled["exp"], 0)
    simple = scaled["simple"] - scaled["exp"] - divides - 2 * CHAINS
    return {
        "multiply_add": max(round(simple / 2), 0),
        "sigmoid": round(scaled["exp"]),
        "divide": round(divides),
        "sqrt": root_count,
    }


def measure(plan: Plan) -> dict[str, Any]:
    """Time predict, the outer gradient and their kernels in turn; return the part of summary.json.

    `operations` are of all four kinds. XLA's own count holds the body of every loop once, like
    ours, and also what surrounds the loops and what it computes twice.
    """
    config = DishConfig(inner_steps=plan.inner_steps, remat="step")
    chunk = min(CPU_CHUNK, plan.predict_motifs)
    devices = widest(math.gcd(chunk, plan.fit_motifs))
    programs = _programs(plan, config, chunk, devices)
    calls: dict[str, Callable[[], Any]] = {}
    for name, program in programs.items():
        calls |= {name: program.run}
        calls |= {f"{name} arithmetic": program.mixed.run, f"{name} bytes": program.moving.run}
    seconds = rounds(calls, plan.rounds)
    parts = {}
    for name, program in programs.items():
        rate = program.motifs * config.inner_steps / seconds[name]["median"]
        operations = sum(program.arithmetic.values())
        attained = {
            kind: kernel.work / seconds[f"{name} {kind}"]["median"]
            for kind, kernel in (("arithmetic", program.mixed), ("bytes", program.moving))
        }
        shares = {
            "arithmetic": operations * rate / attained["arithmetic"],
            "bytes": program.least_bytes * rate / attained["bytes"],
        }
        parts[name] = {
            "motifs": program.motifs,
            "arithmetic_per_step": dict(program.arithmetic),
            "operations_per_step": operations,
            "xla_operations_per_step": program.xla_operations,
            "least_bytes_per_step": program.least_bytes,
            "seconds": seconds[name],
            "inner_steps_per_second": rate,
            "achieved_gop_per_second": operations * rate / 1e9,
            "attainable_gop_per_second": attained["arithmetic"] / 1e9,
            "arithmetic_share": shares["arithmetic"],
            "achieved_gb_per_second": program.least_bytes * rate / 1e9,
            "attainable_gb_per_second": attained["bytes"] / 1e9,
            "bytes_share": shares["bytes"],
            "bound": max(shares, key=lambda kind: shares[kind]),
            "overhead_share": max(1 - max(shares.values()), 0.0),
        }
    return {**dataclasses.asdict(plan), "devices": devices, "programs": parts}


class Kernel(NamedTuple):
    """A simple program whose speed is attainable; `work` is in operations or in bytes."""

    run: Callable[[], Any]
    work: float


@dataclasses.dataclass(frozen=True)
class Limited:
    """A program of the dish, what one inner step of one motif costs at least, and its kernels."""

    run: Callable[[], Any]
    motifs: int
    arithmetic: Counter[str]
    least_bytes: int
    xla_operations: float | None
    mixed: Kernel
    moving: Kernel


def _programs(plan: Plan, config: DishConfig, chunk: int, devices: int) -> dict[str, Limited]:
    family, state, sharding = sigmoid_slope.family(), start(config), over(devices)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    archs = slopes(plan.predict_motifs)
    predict = dish.scores.lower(state, family, config, slopes(chunk)).compile()
    outer = outer_program(config, plan.fit_motifs, sharding)
    alone = outer if sharding is None else outer_program(config, plan.fit_motifs)
    both = outer_gradient_arithmetic(config, plan.fit_motifs)
    resident = {"predict": 3 * chunk, "outer_gradient": 4 * plan.fit_motifs * plan.inner_steps}

    def limited(name: str, run: Any, motifs: int, arithmetic: Counter[str], xla: Any) -> Limited:
        return Limited(
            run=run,
            motifs=motifs,
            arithmetic=arithmetic,
            least_bytes=4 * parameters * LEAST_VECTORS[name],
            xla_operations=xla,
            mixed=_mixed_kernel(arithmetic, devices, plan.loops),
            moving=_moving_kernel(parameters * resident[name], devices, plan.loops),
        )

    return {
        "predict": limited(
            "predict",
            lambda: dish.predict(state, family, config, archs, sharding=sharding),
            plan.predict_motifs,
            inner_step_arithmetic(10, 1, 10, config.train_samples),
            _xla_operations(predict, chunk),
        ),
        "outer_gradient": limited(
            "outer_gradient",
            outer.run,
            plan.fit_motifs,
            Counter({kind: n / plan.fit_motifs for kind, n in both.items()}),
            _xla_operations(alone.compiled, plan.fit_motifs),
        ),
    }


def _xla_operations(compiled: Any, motifs: int) -> float | None:
    """Return XLA's operations per motif; `None` where it does not tell."""
    costs = compiled.cost_analysis() or {}
    total = costs.get("flops", 0.0) + costs.get("transcendentals", 0.0)
    return total / motifs if total > 0 else None


def _vector_length() -> int:
    """Return floats per device that fill its arithmetic units and stay in its cache."""
    return 1 << 14 if jax.devices()[0].platform == "cpu" else 1 << 21


def _mixed_kernel(arithmetic: Counter[str], devices: int, loops: int) -> Kernel:
    body = functools.partial(mixed, mix=mix_of(arithmetic))
    x = _vector(_vector_length(), devices)
    one = jax.make_jaxpr(body)(jnp.ones(1), 0.1, 0.1)
    work = sum(count(one.jaxpr).values()) * x.size * loops
    return Kernel(_looped(lambda x, _: body(x, 0.1, 0.1), x, loops), work)


def _moving_kernel(floats: int, devices: int, loops: int) -> Kernel:
    """Read two vectors and write one; the two are as large as what the program keeps."""
    x = _vector(max(floats // (2 * devices), 1), devices)
    loops = max(loops * _vector_length() * devices // x.size, 20)
    return Kernel(_looped(lambda x, y: x * 0.1 + y, x, loops), 12 * x.size * loops)


def _vector(per_device: int, devices: int) -> Array:
    return jax.device_put(np.full(devices * per_device, 0.5, np.float32), over(devices))


def _looped(body: Callable[[Array, Array], Array], x: Array, loops: int) -> Callable[[], Array]:
    run = jax.jit(lambda x, y: jax.lax.fori_loop(0, loops, lambda _, x: body(x, y), x))
    y = x + 0
    return lambda: run(x, y)
