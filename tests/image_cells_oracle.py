"""Image networks built directly from one cell's graph, with nothing masked and nothing clever.

Features lie as NHWC. Weights are those of the motif-networks, cut to the channels in use.
"""

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.spaces.nasbench101 import to_matrix
from spd_jax.spaces.nasbench201 import EDGES, OPERATIONS


def convolution(x, kernel):
    """Return the convolution with a kernel `[size, O, size, C]`."""
    return jax.lax.conv_general_dilated(
        x,
        jnp.transpose(kernel, (0, 2, 3, 1)),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def batch_norm(x):
    mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    return (x - mean) / jnp.sqrt(variance + 1e-5)


def surroundings(image, row, col):
    """Return the 3x3 surroundings inside an image `[H, W, C]`."""
    return image[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]


def pool(x, combine):
    """Pool NumPy features with `combine(patch, axis=(0, 1))`, one pixel at a time."""
    pooled = np.empty_like(x)
    for n, row, col in np.ndindex(x.shape[:3]):
        pooled[n, row, col] = combine(surroundings(x[n], row, col), axis=(0, 1))
    return pooled


def _windows(x, start, combine):
    return jax.lax.reduce_window(x, start, combine, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")


def average_pool(x):
    ones = jnp.ones_like(x[:1, :, :, :1])
    return _windows(x, 0.0, jax.lax.add) / _windows(ones, 0.0, jax.lax.add)


def max_pool(x):
    return _windows(x, -jnp.inf, jax.lax.max)


def halved(x, combine):
    count, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return combine(x.reshape(count, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def nasbench201_cell(params, arch, x):
    """Run a NAS-Bench-201 cell, edge by edge."""
    nodes = [x]
    for node in range(1, 4):
        total = jnp.zeros_like(x)
        for index, (source, target) in enumerate(EDGES):
            name = OPERATIONS[int(arch[index])]
            if target != node or name == "none":
                continue
            y = nodes[source]
            if name == "avg_pool_3x3":
                y = average_pool(y)
            elif name != "skip_connect":
                kernel = params[f"conv{name[-3:]}"][index]
                y = batch_norm(convolution(jax.nn.relu(y), kernel))
            total = total + y
        nodes.append(total)
    return nodes[-1]


def channels(matrix, outputs):
    """Return the channels of every vertex but the input, by the rules of NAS-Bench-101."""
    last = len(matrix) - 1
    found = {last: outputs}
    feeding = [v for v in range(1, last) if matrix[v][last]]
    for place, vertex in enumerate(feeding):
        more = place < outputs % len(feeding)
        found[vertex] = outputs // len(feeding) + more
    for vertex in range(last - 1, 0, -1):
        if vertex not in feeding:
            found[vertex] = max(found[w] for w in range(1, last) if matrix[vertex][w])
    return found


def _conv_bn_relu(x, kernel, outputs):
    kernel = kernel[:, :outputs, :, : x.shape[-1]]
    return jax.nn.relu(batch_norm(convolution(x, kernel)))


def nasbench101_cell(params, arch, x):
    """Run a pruned NAS-Bench-101 cell, vertex by vertex, each of its own width."""
    matrix, names = to_matrix(arch)
    numbers = np.flatnonzero(np.asarray(arch.operation))  # of the vertices, in the params
    outputs = params["conv1x1"].shape[2]
    widths, last = channels(matrix, outputs), len(matrix) - 1
    values = {}
    for vertex in range(1, last):
        number, width = numbers[vertex - 1], widths[vertex]
        entering = [values[u][..., :width] for u in range(1, vertex) if matrix[u][vertex]]
        if matrix[0][vertex]:
            entering.append(_conv_bn_relu(x, params["projection"][number], width))
        y = sum(entering)
        if names[vertex - 1] == "maxpool3x3":
            values[vertex] = max_pool(y)
        else:
            kernels = params[names[vertex - 1].split("-")[0]]
            values[vertex] = _conv_bn_relu(y, kernels[number], width)
    feeding = [values[v] for v in range(1, last) if matrix[v][last]]
    result = [jnp.concatenate(feeding, -1)] if feeding else []
    if matrix[0][last]:
        result.append(_conv_bn_relu(x, params["projection"][5], outputs))
    return sum(result)


def network(skeleton, cell, params, arch, images, *, relu_after_stem=False):
    """Run a network around `nasbench201_cell` or `nasbench101_cell`; return logits and blocks."""
    x = batch_norm(convolution(images, params["stem"]))
    x = jax.nn.relu(x) if relu_after_stem else x
    cells = [
        jax.tree.map(lambda leaf, i=i: leaf[i], group)
        for group in params["cells"]
        for i in range(len(jax.tree.leaves(group)[0]))
    ]
    blocks = [x]
    for index, weights in enumerate(cells):
        if index and index % skeleton.cells == 0:
            x = _reduced(skeleton, params["reductions"][index // skeleton.cells - 1], x)
            blocks.append(x)
        x = cell(weights, arch, x)
        blocks.append(x)
    if skeleton.reduction == "residual":
        x = jax.nn.relu(batch_norm(x))
    dense = params["dense"]
    return jnp.mean(x, (1, 2)) @ dense["weight"].T + dense["bias"][:, 0], blocks


def _reduced(skeleton, weights, x):
    if skeleton.reduction == "max_pool":
        x = halved(x, jnp.max)
        return batch_norm(convolution(x, weights["widen"])) if weights else x
    y = convolution(jax.nn.relu(x), weights["first"])[:, ::2, ::2]
    y = batch_norm(convolution(jax.nn.relu(batch_norm(y)), weights["second"]))
    return y + convolution(halved(x, jnp.mean), weights["shortcut"])
