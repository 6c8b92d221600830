"""The dish in plain NumPy, float64: forward and backward by hand, and from the formulas alone.

A network is `sigmoid(c z)`, `sigmoid(c z)`, linear; its parameters are three pairs (weight, bias).
"""

import numpy as np

BETA1, BETA2, EPS, EPS_ROOT = 0.9, 0.999, 1e-8, 1e-16


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    exponentials = np.exp(z - z.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def binary_cross_entropy(z, y):
    return np.mean(-y * np.log(sigmoid(z)) - (1 - y) * np.log(1 - sigmoid(z)))


def softmax_cross_entropy(z, y):
    return np.mean(-np.sum(y * np.log(softmax(z)), axis=-1))


def squared_error(z, y):
    return np.mean((z - y) ** 2)


INNER_LOSSES = {
    "binary_cross_entropy": binary_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
    "squared_error": squared_error,
}

# d loss / d z, up to the number of averaged terms.
_DELTAS = {
    "binary_cross_entropy": lambda z, y: (sigmoid(z) - y) / z.size,
    "softmax_cross_entropy": lambda z, y: (softmax(z) * y.sum(-1, keepdims=True) - y) / len(z),
    "squared_error": lambda z, y: 2 * (z - y) / z.size,
}


def forward(layers, slope, inputs):
    """Return the activations of both hidden layers and the outputs; slope is `[]` or `[H]`."""
    (w0, b0), (w1, b1), (w2, b2) = layers
    first = sigmoid(slope * (inputs @ w0 + b0))
    second = sigmoid(slope * (first @ w1 + b1))
    return first, second, second @ w2 + b2


def backward(layers, slope, inputs, delta_of):
    """Return the gradient of a loss whose derivative in the outputs is `delta_of(outputs)`."""
    first, second, outputs = forward(layers, slope, inputs)
    delta = delta_of(outputs)
    delta1 = delta @ layers[2][0].T * slope * second * (1 - second)
    delta0 = delta1 @ layers[1][0].T * slope * first * (1 - first)
    pairs = ((inputs, delta0), (first, delta1), (second, delta))
    return [(left.T @ right, right.sum(0)) for left, right in pairs]


def adam(gradient, theta, steps, rate):
    """Return `theta` (a list of arrays) after `steps` of Adam (Kingma & Ba, algorithm 1)."""
    mu, nu = [0.0 * p for p in theta], [0.0 * p for p in theta]
    for t in range(1, steps + 1):
        for i, g in enumerate(gradient(theta)):
            mu[i] = BETA1 * mu[i] + (1 - BETA1) * g
            nu[i] = BETA2 * nu[i] + (1 - BETA2) * g**2
        theta = [
            p - rate * m / (1 - BETA1**t) / (np.sqrt(n / (1 - BETA2**t) + EPS_ROOT) + EPS)
            for p, m, n in zip(theta, mu, nu, strict=True)
        ]
    return theta


def train(layers, slope, inputs, labels, *, steps, rate, l2, loss, use_bias=True):
    """Train one network with full batches; without biases they stay as they are."""

    def gradient(theta):
        layers = _pairs(theta)
        grads = _flat(backward(layers, slope, inputs, lambda z: _DELTAS[loss](z, labels)))
        grads = [g + 2 * l2 * p for g, p in zip(grads, theta, strict=True)]
        return [g * (use_bias or i % 2 == 0) for i, g in enumerate(grads)]

    return _pairs(adam(gradient, _flat(layers), steps, rate))


def score(layers, slope, data, *, loss="binary_cross_entropy", **settings):
    """Return minus the validation loss after training on `data` (4 arrays)."""
    train_inputs, train_labels, valid_inputs, valid_labels = data
    layers = train(layers, slope, train_inputs, train_labels, loss=loss, **settings)
    return -INNER_LOSSES[loss](forward(layers, slope, valid_inputs)[-1], valid_labels)


def supernetwork_scores(layers, slopes, data, *, steps, rate, l2):
    """Return the scores of all slopes, trained as ONE network with masks (arXiv A.2.2)."""
    train_inputs, train_labels, valid_inputs, valid_labels = data
    motifs, classes = len(slopes), train_labels.shape[1]
    (w0, b0), (w1, b1), (w2, b2) = layers
    ones, eye = np.ones((1, motifs)), np.eye(motifs)
    masks = [np.ones((len(w0), motifs * w0.shape[1])), np.kron(eye, np.ones_like(w1))]
    masks += [np.kron(eye, np.ones_like(w2))]
    # Connections that a mask hides hold rubbish, which must not matter.
    weights = [np.kron(ones, w0), np.kron(np.ones((motifs, motifs)), w1)]
    weights += [np.kron(np.ones((motifs, motifs)), w2)]
    biases = [np.tile(b, motifs) for b in (b0, b1, b2)]
    slope = np.repeat(slopes, len(b0))

    def masked(theta):
        return [(w * mask, b) for (w, b), mask in zip(_pairs(theta), masks, strict=True)]

    def gradient(theta):
        def delta(z):  # the mean of every motif-network, summed over them
            return _DELTAS["binary_cross_entropy"](z, np.tile(train_labels, motifs)) * motifs

        grads = backward(masked(theta), slope, train_inputs, delta)
        grads = _flat([(g * mask, b) for (g, b), mask in zip(grads, masks, strict=True)])
        return [g + 2 * l2 * p for g, p in zip(grads, _flat(masked(theta)), strict=True)]

    theta = adam(gradient, _flat(list(zip(weights, biases, strict=True))), steps, rate)
    outputs = forward(masked(theta), slope, valid_inputs)[-1].reshape(-1, motifs, classes)
    return np.array([-binary_cross_entropy(outputs[:, m], valid_labels) for m in range(motifs)])


def zscores(values):
    return (values - values.mean()) / values.std()


def zscored_mse(scores, truth):
    return np.mean((zscores(scores) - zscores(truth)) ** 2)


def raw_mse(scores, truth):
    return np.mean((scores - truth) ** 2)


def absolute_pearson(scores, truth):
    return 1 - abs(np.corrcoef(scores, truth)[0, 1])


def pairwise_rank(scores, truth):
    z, total, pairs = zscores(scores), 0.0, 0
    for i in range(len(truth)):
        for j in range(len(truth)):
            if truth[i] > truth[j]:
                total += np.log(1 + np.exp(-(z[i] - z[j])))
                pairs += 1
    return total / pairs


OUTER_LOSSES = {
    "zscored_mse": zscored_mse,
    "raw_mse": raw_mse,
    "absolute_pearson": absolute_pearson,
    "pairwise_rank": pairwise_rank,
}


def central_differences(function, x, step=1e-5):
    """Return the gradient of a scalar function of an array."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        gradient[index] = (function(x + shift) - function(x - shift)) / (2 * step)
    return gradient


def layers_of(params):
    """Turn the sigmoid-slope family's parameters of one member into float64 pairs."""
    pairs = []
    for layer in params:
        weight = np.asarray(layer["weight"], float)
        pairs.append((weight, np.asarray(layer.get("bias", np.zeros(weight.shape[1])), float)))
    return pairs


def _flat(pairs):
    return [array for pair in pairs for array in pair]


def _pairs(theta):
    return list(zip(theta[::2], theta[1::2], strict=True))
