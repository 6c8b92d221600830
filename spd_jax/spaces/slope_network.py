"""The motif-network of the slope spaces: D -> H -> H -> C, one unit in both hidden layers.

Rawal et al., section 4.1. What a unit computes is the space's own; the parameters are the same
for all, so that synthetic data and weights that one space's dish has learned fit the others.
"""

import functools
from collections.abc import Callable

import jax

from spd_jax.axes import Arch, Array, Key, Params
from spd_jax.motif import MotifFamily

Unit = Callable[[Arch, Array], Array]


@functools.cache
def family(unit: Unit, inputs: int, hidden: int, outputs: int, use_bias: bool) -> MotifFamily:
    """Return the motif-network; equal arguments return one object, which compiles once.

    Args:
      unit: `unit(arch, z [N, H]) -> [N, H]`, what both hidden layers do with their sums z.
      inputs: D.
      hidden: H.
      outputs: C; the outputs are logits.
      use_bias: biases in all three layers, as in the released program.
    """
    sizes = (inputs, hidden, hidden, outputs)

    def init(key: Key) -> Params:
        params = []
        for layer_key, fan_in, fan_out in zip(
            jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True
        ):
            weight_key, bias_key = jax.random.split(layer_key)
            layer = {"weight": jax.random.normal(weight_key, (fan_in, fan_out))}
            if use_bias:
                layer["bias"] = jax.random.normal(bias_key, (fan_out,))
            params.append(layer)
        return params

    def dense(layer: dict[str, Array], inputs: Array) -> Array:
        return inputs @ layer["weight"] + layer.get("bias", 0.0)

    def apply(params: Params, arch: Arch, inputs: Array) -> Array:
        hidden = unit(arch, dense(params[0], inputs))
        hidden = unit(arch, dense(params[1], hidden))
        return dense(params[2], hidden)

    return MotifFamily(init, apply, (inputs,), (outputs,), "bernoulli")
