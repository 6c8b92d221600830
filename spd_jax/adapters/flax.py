"""Networks of flax as motif-networks: a module with a choice argument becomes a `MotifFamily`.

The module is called as `module(inputs, arch)`, for one motif and all its samples. It must be
ready to train without a key, so dropout has to be switched off. What it keeps besides its
parameters, such as the running statistics of a batch normalisation, stays as it was at first.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from spd_jax.axes import Arch, Array, Key, Params
from spd_jax.errors import UserError
from spd_jax.motif import Labels, MotifFamily


def of_linen(
    module: linen.Module,
    arch: Arch,
    input_shape: tuple[int, ...],
    *,
    labels: Labels = "bernoulli",
    branching: bool = False,
) -> MotifFamily:
    """Return the motif family of a linen module; equal arguments give equal families.

    Args:
      module: called as `module(inputs [N, *input_shape], arch)`, returns outputs `[N, ...]`.
      arch: one arch, or anything with its shapes and data types.
      input_shape: shape of one sample.
      labels: law of the synthetic labels, see `MotifFamily`.
      branching: whether the module chooses by `jax.lax.switch`, see `MotifFamily`.

    Raises:
      UserError: the module does not return one output for each sample.
    """
    example = _Example.of(arch, input_shape)
    apply = _LinenApply(module, example)
    return _family(_LinenInit(module, example), apply, example, labels, branching)


def of_nnx(
    make: Callable[[nnx.Rngs], nnx.Module],
    arch: Arch,
    input_shape: tuple[int, ...],
    *,
    labels: Labels = "bernoulli",
    branching: bool = False,
) -> MotifFamily:
    """Return the motif family of an nnx module; equal arguments give equal families.

    Args:
      make: `make(rngs) -> module`, such as its class; the module is called as
        `module(inputs [N, *input_shape], arch)` and returns outputs `[N, ...]`.
      arch: as in `of_linen`, like all else.
      input_shape: see `arch`.
      labels: see `arch`.
      branching: see `arch`.

    Raises:
      UserError: the module does not return one output for each sample.
    """
    example = _Example.of(arch, input_shape)
    return _family(_NnxInit(make), _NnxApply(make), example, labels, branching)


@dataclasses.dataclass(frozen=True)
class _Example:
    """Shapes of one arch and one sample, in a form that can be compared and hashed.

    Attributes:
      structure: of the arch's pytree.
      leaves: shape and name of the data type of every array of the arch.
      input_shape: of one sample.
    """

    structure: Hashable
    leaves: tuple[tuple[tuple[int, ...], str], ...]
    input_shape: tuple[int, ...]

    @classmethod
    def of(cls, arch: Arch, input_shape: tuple[int, ...]) -> "_Example":
        leaves, structure = jax.tree.flatten(jax.eval_shape(lambda: arch))
        return cls(structure, tuple((x.shape, x.dtype.name) for x in leaves), tuple(input_shape))

    def arguments(self) -> tuple[Array, Arch]:
        """Return one sample `[1, ...]` and an arch, all zeros."""
        arch = jax.tree.unflatten(self.structure, [jnp.zeros(*leaf) for leaf in self.leaves])
        return jnp.zeros((1, *self.input_shape)), arch


@dataclasses.dataclass(frozen=True)
class _LinenInit:
    """`MotifFamily.init` of a linen module."""

    module: linen.Module
    example: _Example

    def __call__(self, key: Key) -> Params:
        return _split(self.module.init(key, *self.example.arguments()))[0]


@dataclasses.dataclass(frozen=True)
class _LinenApply:
    """`MotifFamily.apply` of a linen module."""

    module: linen.Module
    example: _Example

    def __call__(self, params: Params, arch: Arch, inputs: Array) -> Array:
        kept = _split(self.module.init(jax.random.key(0), *self.example.arguments()))[1]
        variables = {"params": params, **kept}
        outputs, _ = self.module.apply(variables, inputs, arch, mutable=list(kept))
        return cast(Array, outputs)


def _split(variables: Mapping[str, Any]) -> tuple[Params, dict[str, Any]]:
    """Return the parameters of a linen module, and its other variables."""
    return variables.get("params", {}), {k: v for k, v in variables.items() if k != "params"}


@dataclasses.dataclass(frozen=True)
class _NnxInit:
    """`MotifFamily.init` of an nnx module: its parameters as a tuple of arrays."""

    make: Callable[[nnx.Rngs], nnx.Module]

    def __call__(self, key: Key) -> Params:
        _, params, _ = _parts(self.make, key)
        return tuple(jax.tree.leaves(params))


@dataclasses.dataclass(frozen=True)
class _NnxApply:
    """`MotifFamily.apply` of an nnx module."""

    make: Callable[[nnx.Rngs], nnx.Module]

    def __call__(self, params: Params, arch: Arch, inputs: Array) -> Array:
        # Made anew inside the trace, because nnx refuses to change what was made outside; only
        # what is no parameter stays in the program, XLA drops the rest.
        graph, own, kept = _parts(self.make, jax.random.key(0))
        own = jax.tree.unflatten(jax.tree.structure(own), params)
        return nnx.merge(graph, own, kept)(inputs, arch)


def _parts(make: Callable[[nnx.Rngs], nnx.Module], key: Key) -> tuple[Any, Any, Any]:
    """Return what an nnx module is made of: its graph, its parameters, and all other state."""
    return nnx.split(make(nnx.Rngs(key)), nnx.Param, ...)  # type: ignore[return-value]


def _family(
    init: Callable[[Key], Params],
    apply: Callable[[Params, Arch, Array], Array],
    example: _Example,
    labels: Labels,
    branching: bool,
) -> MotifFamily:
    """Return the family, whose output shape is that of one call.

    The call is made with two samples: a batch normalisation needs them.
    """
    sample, arch = example.arguments()
    two = jnp.concatenate([sample, sample])
    outputs = jax.eval_shape(lambda: apply(init(jax.random.key(0)), arch, two))
    if np.shape(outputs)[:1] != (2,):
        raise UserError(
            f"the module returns {outputs} for 2 samples: return one array, an output for each"
        )
    shape = tuple(outputs.shape[1:])
    return MotifFamily(init, apply, example.input_shape, shape, labels, branching)
