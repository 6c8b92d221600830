"""Members and motifs over many devices, those of several hosts among them.

Motifs train independently of one another, and members too: until the outer loss, which needs
the scores of all motifs of one member, nothing has to be sent between devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from spd_jax.axes import Archs
from spd_jax.checks import is_count
from spd_jax.dish.state import DishState
from spd_jax.errors import UserError


class Divided(NamedTuple):
    """A dish and its motifs, placed on a mesh of devices.

    Attributes:
      state: as before; leaves with an axis E are divided over the mesh's members.
      archs: as before; axis M is divided over the mesh's motifs.
      sharding: what `outer_step` and `scores` take as their `sharding`.
    """

    state: DishState
    archs: Archs
    sharding: NamedSharding


def make(members: int = 1) -> Mesh:
    """Return a mesh of all devices of all processes, with axes `member` and `motif`.

    Args:
      members: how many groups the devices form; each trains its share of the members.

    Raises:
      UserError: the devices cannot be divided into so many groups of one size.
    """
    count = jax.device_count()
    if not is_count(members, 1) or count % members:
        raise UserError(f"members={members!r} must be a whole number that divides {count} devices")
    return jax.make_mesh(
        (members, count // members), ("member", "motif"), axis_types=(AxisType.Auto,) * 2
    )


def divide(state: DishState, archs: Archs, mesh: Mesh) -> Divided:
    """Place a dish and motifs on a mesh; on several hosts every process calls this alike.

    Args:
      state: a dish of E members, the same in every process.
      archs: motifs, axis M in front, the same in every process.
      mesh: of `make`, or any with the axes `member` and `motif`.

    Returns:
      Both, divided. One step later the state still is. An array that other hosts have a part of
      cannot be read by NumPy: gather it first, by `jax.experimental.multihost_utils`.

    Raises:
      UserError: E or M is no multiple of the mesh's axis.
    """
    members, motifs = state.sign.shape[0], jax.tree.leaves(archs)[0].shape[0]
    for count, axis in ((members, "member"), (motifs, "motif")):
        if count % mesh.shape[axis]:
            raise UserError(
                f"{count} {axis}s cannot be divided over {mesh.shape[axis]} groups of devices: "
                "give a multiple of it"
            )
    whole, by_member, by_motif = (
        NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("member",), ("motif",))
    )

    def place(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # A key's own type cannot be sent to another host; its numbers can.
            numbers = jax.device_put(jax.random.key_data(leaf), whole)
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        return jax.device_put(leaf, by_member if leaf.ndim else whole)

    return Divided(jax.tree.map(place, state), jax.device_put(archs, by_motif), by_motif)
