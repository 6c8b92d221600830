"""Motif families that are made for the tests."""

import jax
import jax.numpy as jnp

from spd_jax.motif import MotifFamily


def linear(size=3):
    """Return outputs `a x theta`: quadratic in theta under squared error, closed forms in reach."""

    def init(key):
        return {"theta": jax.random.normal(key, (size,))}

    def apply(params, arch, inputs):
        return (arch * inputs @ params["theta"])[:, None]

    return MotifFamily(init, apply, (size,), (1,))


def branching(classes=3):
    """Return a softmax regression whose arch chooses by `lax.switch` what inputs become."""

    def init(key):
        return {"weight": jax.random.normal(key, (2, classes))}

    def apply(params, arch, inputs):
        branches = [jnp.tanh, jnp.sin, lambda x: 0.1 * x**2]
        return jax.lax.switch(arch, branches, inputs) @ params["weight"]

    return MotifFamily(init, apply, (2,), (classes,), "balanced_classes", branching=True)


class Counted:
    """A family of sigmoid motifs that counts how often JAX traces it."""

    def __init__(self):
        self.traces = 0
        self.family = MotifFamily(
            lambda key: {"w": jax.random.normal(key, (3, 2))}, self._apply, (3,), (2,)
        )

    def _apply(self, params, arch, inputs):
        self.traces += 1
        return jax.nn.sigmoid(arch * (inputs @ params["w"])) @ jnp.ones((2, 2))
