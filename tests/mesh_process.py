"""One process of test_dish_mesh.py: python mesh_process.py PROCESSES NUMBER PORT DEVICES."""

import sys

import jax
import numpy as np
from jax.experimental import multihost_utils


def main(processes, number, port, devices):
    """Take two outer steps, alone or with others, and print what came out."""
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", processes, number)
    from spd_jax import dish, problems  # with the devices as they are to be
    from spd_jax.dish import mesh

    problem = problems.get("sigmoid_slope")
    family = problem.family(2)
    config = dish.DishConfig(inner_steps=5, ensemble_size=2, train_samples=3, valid_samples=3)
    state = dish.init(jax.random.key(0), family, config)
    archs = jax.tree.map(np.asarray, problem.space.sample(jax.random.key(1), 8))
    truth = np.sin(np.arange(8.0))
    sharding = None
    if jax.device_count() > 1:
        state, archs, sharding = mesh.divide(state, archs, mesh.make(2))
    for _ in range(2):
        state, info = dish.outer_step(state, family, config, archs, truth, sharding=sharding)
    found = (info.scores, info.loss, state.data.train_inputs)
    if sharding is not None:
        assert tuple(found[2].sharding.spec) == ("member",), found[2].sharding
        assert processes == 1 or not found[0].is_fully_addressable
        found = multihost_utils.process_allgather(found, tiled=True)
    print(" ".join(f"{x:.9e}" for part in found for x in np.asarray(part).ravel()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
