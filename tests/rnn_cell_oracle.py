"""The recurrent cells in plain NumPy and loops, float64: the other way to everything."""

from collections import Counter

import numpy as np

NODES = 12
ACTIVATIONS = [
    np.tanh,
    lambda z: np.maximum(z, 0),
    lambda z: z,
    lambda z: 1 / (1 + np.exp(-z)),
]


def next_state(weights, cell, variant, inputs, state):
    """Return the next state `[H]` of one sample: inputs `[D]`, state `[H]`."""

    def gated(old, gate_and_value, activation):
        gate, value = np.split(gate_and_value, 2)
        return old + (ACTIVATIONS[activation](value) - old) / (1 + np.exp(-gate))

    activation = cell.activation
    nodes = [gated(state, weights.inputs @ inputs + weights.state @ state, activation[0])]
    for i in range(1, NODES):
        source = nodes[cell.predecessor[i - 1]]
        nodes.append(gated(source, weights.nodes[i - 1] @ source, activation[i]))
    if variant == "nao":
        chosen = nodes[1:]
    elif variant == "enas":
        chosen = [node for i, node in enumerate(nodes) if i not in list(cell.predecessor)]
    else:
        chosen = nodes
    return sum(chosen) / len(chosen)


def forward(params, cell, variant, inputs):
    """Return logits `[N, L, C]` of the motif-network for inputs `[N, L, D]`."""
    weights = type(params["cell"])(*(np.asarray(w, float) for w in params["cell"]))
    readout, bias = np.asarray(params["weight"], float), np.asarray(params["bias"], float)
    outputs = []
    for sample in np.asarray(inputs, float):
        state, logits = np.zeros(weights.state.shape[1]), []
        for now in sample:
            state = next_state(weights, cell, variant, now, state)
            logits.append(readout @ state + bias[:, 0])
        outputs.append(logits)
    return np.array(outputs)


def children(cell):
    """Return the readers of every node."""
    return [[i for i in range(1, NODES) if cell.predecessor[i - 1] == p] for p in range(NODES)]


def tree(cell, node=0):
    """Return the subtree under a node as a value that no numbering changes."""
    below = Counter(tree(cell, child) for child in children(cell)[node])
    return int(cell.activation[node]), frozenset(below.items())


def isomorphism(cell, other, node=0, image=0):
    """Return which node of `other` each node of `cell` corresponds to; both are the same tree."""
    pairs = {node: image}
    free = children(other)[image]
    for child in children(cell)[node]:
        match = next(x for x in free if tree(other, x) == tree(cell, child))
        free.remove(match)
        pairs |= isomorphism(cell, other, child, match)
    return pairs


def renumbered(cell, rng):
    """Return the cell with its nodes in another order in which every node follows its source."""
    order, ready = [0], children(cell)[0]
    while ready:
        node = ready.pop(rng.integers(len(ready)))
        order.append(node)
        ready += children(cell)[node]
    number = {node: i for i, node in enumerate(order)}
    predecessor = [number[int(cell.predecessor[node - 1])] for node in order[1:]]
    return type(cell)(np.array(predecessor), np.asarray(cell.activation)[order])
