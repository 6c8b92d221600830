"""The language model against plain NumPy, and against itself in other words."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rnn_cell_oracle as oracle
from small_language_models import CELL, PAPER

from spd_jax import archs
from spd_jax.spaces import rnn_cell
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.spaces.rnn_cell.network import CellWeights
from spd_jax.trainers.language_model import PRESETS
from spd_jax.trainers.language_model import network as model
from spd_jax.trainers.language_model.batches import Batches, epoch_batches

NO_MASKS = model._Masks()


def drawn_params(config, vocabulary, seed):
    """Draw weights large enough that everything matters, the bias too."""
    params = model.init(jax.random.key(seed), vocabulary, config)
    keys = jax.random.split(jax.random.key(seed + 1), len(params))
    return {
        name: 0.5 * jax.random.normal(key, params[name].shape)
        for key, name in zip(keys, sorted(params), strict=True)
    }


def drawn_batches(rng, shape, vocabulary):
    """Draw tokens `[S, T, B]`, all counted."""
    inputs, targets = rng.integers(0, vocabulary, (2, *shape)).astype(np.int32)
    return Batches(inputs, targets, np.ones(shape[:2], np.float32))


def numpy_loss(params, cell, variant, batches, masks=NO_MASKS):
    """Return mean cross-entropy and mean squared change of the state, row by row in loops."""
    params = {name: np.asarray(x, float) for name, x in params.items()}
    softmax = params.get("softmax", params["embedding"])
    width, rows = params["state"].shape[1], batches.inputs.shape[2]
    losses, changes = [], []
    for row in range(rows):
        mask = model._Masks(
            *(np.broadcast_to(np.asarray(m, float), (width, rows))[:, row] for m in masks)
        )
        weights = CellWeights(
            params["inputs"] * mask.cell_input,
            params["state"] * mask.state,
            params["nodes"] * mask.state,
        )
        state = np.zeros(width)
        for inputs, targets, counted in zip(*batches, strict=True):
            for t in np.flatnonzero(counted):
                before = state
                embedded = mask.embedding * params["embedding"][inputs[t, row]]
                state = oracle.next_state(weights, cell, variant, embedded, state)
                logits = softmax @ (mask.output * state) + params["bias"][:, 0]
                losses.append(np.log(np.sum(np.exp(logits))) - logits[targets[t, row]])
                if t:
                    changes.append(np.mean((state - before) ** 2))
    return np.mean(losses), np.sum(changes) / (len(losses))


@pytest.mark.parametrize("variant", rnn_cell.VARIANTS)
def test_evaluation_is_the_plain_forward_pass_without_dropout(variant):
    cell = archs.unstack(RnnCellSpace(variant).sample(jax.random.key(5), 1))[0]
    config = dataclasses.replace(PAPER, tied=variant == "nao")
    params = drawn_params(config, 6, 0)
    batches = drawn_batches(np.random.default_rng(0), (2, 5, 4), 6)
    expected, _ = numpy_loss(params, cell, variant, batches)
    np.testing.assert_allclose(model.evaluate(params, cell, batches, variant), expected, rtol=1e-5)
    # Padding changes nothing, within and after a sequence, and the state stays.
    batches.counted[0, 3:] = 0
    kept = Batches(*(np.array(x) for x in batches))
    expected, _ = numpy_loss(params, cell, variant, batches)
    for x in (kept.inputs, kept.targets):
        x[0, 3:] = 0
    for padded in (batches, kept):
        np.testing.assert_allclose(
            model.evaluate(params, cell, padded, variant), expected, rtol=1e-5
        )


def trained(state, batches, config=PAPER):
    """Take the updates; the state given is consumed."""
    cell = RnnCellSpace("nao").decode(CELL)
    return model.train_epoch(state, cell, batches, jnp.asarray(100.0), "nao", config)


def fresh(seed, config=PAPER):
    """Return a training whose weights are large enough that everything matters."""
    state = model.start(jax.random.key(seed), 6, config)
    params = drawn_params(config, 6, seed)
    return state._replace(params=params, average=jax.tree.map(jnp.copy, params))


def test_an_update_is_clipped_sgd_on_the_masked_loss():
    """Loss with masks locked over time; its derivative along a direction by differences."""
    state, cell = fresh(2), RnnCellSpace("nao").decode(CELL)
    before = jax.tree.map(np.asarray, state.params)
    masks = model._draw_masks(jax.random.fold_in(state.key, 0), 4, PAPER)
    batches = drawn_batches(np.random.default_rng(1), (1, 12, 4), 6)
    state, mean = trained(state, batches)
    np.testing.assert_allclose(mean, numpy_loss(before, cell, "nao", batches, masks)[0], rtol=1e-5)

    rate = PAPER.learning_rate * 12 / PAPER.sequence_length
    step = {
        name: (x - np.asarray(state.params[name], float)) / rate - PAPER.weight_decay * x
        for name, x in before.items()
    }
    norm = math.sqrt(sum(np.sum(x**2) for x in step.values()))
    np.testing.assert_allclose(norm, PAPER.clip, rtol=1e-3)  # the loss is steeper than that

    def total(name, scale):
        moved = before | {name: before[name] + scale * step[name]}
        loss, change = numpy_loss(moved, cell, "nao", batches, masks)
        return loss + PAPER.slowness * change

    # Every array moved along the negative gradient: each slope is the same multiple of its square.
    ratios = [
        (total(name, 1e-3) - total(name, -1e-3)) / 2e-3 / np.sum(x**2) for name, x in step.items()
    ]
    np.testing.assert_allclose(ratios, ratios[0], rtol=2e-2)
    assert ratios[0] > 1


def test_the_average_is_the_mean_of_the_weights_since_it_began():
    state = fresh(3)
    batches = drawn_batches(np.random.default_rng(2), (1, 12, 4), 6)
    state, _ = trained(state, batches)
    assert float(state.averaged) == 0
    np.testing.assert_allclose(state.average["bias"], state.params["bias"], rtol=1e-6)
    assert model.averaged_params(state) is state.params
    state = model.begin_averaging(state)
    weights = [jax.tree.map(np.asarray, state.params)]
    for _ in range(4):
        state, _ = trained(state, batches)
        weights.append(jax.tree.map(np.asarray, state.params))
        assert model.begin_averaging(state) is state  # it begins once
    assert float(state.averaged) == 5
    for name, average in model.averaged_params(state).items():
        expected = np.mean([x[name] for x in weights], axis=0)
        np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-6)


def test_padding_changes_no_training():
    # Adam has momenta that an update of nothing would change.
    config = dataclasses.replace(PAPER, optimiser="adam", learning_rate=0.01)
    batches = drawn_batches(np.random.default_rng(3), (3, 12, 4), 6)
    batches.counted[1, 7:] = 0
    two = Batches(*(x[:2] for x in batches))
    batches.counted[2] = 0
    short, short_loss = trained(model.begin_averaging(fresh(4, config)), two, config)
    padded, padded_loss = trained(model.begin_averaging(fresh(4, config)), batches, config)
    np.testing.assert_allclose(padded_loss, short_loss, rtol=1e-6)
    assert (float(short.step), float(padded.step)) == (2, 3)
    for a, b in zip(
        jax.tree.leaves((short.params, short.optimiser, short.average, short.averaged)),
        jax.tree.leaves((padded.params, padded.optimiser, padded.average, padded.averaged)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_masks_drop_the_share_that_is_asked_and_keep_the_mean():
    config, rows = PRESETS["paper"], 64
    masks = model._draw_masks(jax.random.key(0), rows, config)
    rates = {"embedding": 0.2, "cell_input": 0.75, "state": 0.25, "output": 0.75}
    for name, mask in masks._asdict().items():
        rate = rates[name]
        assert mask.shape == (config.hidden_size, rows)  # no axis of time: locked
        np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], rtol=1e-6)
        error = 5 * math.sqrt(rate * (1 - rate) / mask.size)
        assert abs(np.mean(np.asarray(mask) == 0) - rate) < error
        # Units and rows are dropped one by one, not in whole columns.
        assert 0 < np.std(np.mean(np.asarray(mask) == 0, axis=0)) < 0.05
    output, cell_input = np.asarray(masks.output).ravel(), np.asarray(masks.cell_input).ravel()
    assert abs(np.corrcoef(output, cell_input)[0, 1]) < 0.02
    other = model._draw_masks(jax.random.key(1), rows, config)
    assert np.mean(np.asarray(other.state) != masks.state) > 0.3
    assert model._draw_masks(jax.random.key(0), rows, PRESETS["tiny"]) == NO_MASKS


# Averaging begins.


@pytest.mark.parametrize(
    ("curve", "patience", "expected"),
    [
        ([], 1, False),
        ([-3.0, -4.0], 1, False),  # only one before it: none is `patience` ago
        ([-3.0, -4.0, -3.5], 1, True),
        ([-3.0, -4.0, -3.0], 1, False),  # equal is no loss
        ([-3.0, -2.0, -2.5], 1, False),  # worse than the last, better than those before
        ([-3.0, -2.0, -2.5, -2.4], 1, True),
        ([-2.0, -3.0, -3.0, -3.0, -3.0, -3.0], 5, False),
        ([-2.0, -3.0, -3.0, -3.0, -3.0, -3.0, -2.1], 5, True),
        ([-2.0, -3.0, -3.0, -3.0, -3.0, -3.0, -1.9], 5, False),
    ],
)
def test_when_evaluations_have_gained_nothing(curve, patience, expected):
    assert model.gained_nothing(curve, patience) is expected


# The preset `paper` at its full width.


def test_the_paper_s_preset_runs_at_full_width():
    config = dataclasses.replace(PRESETS["paper"], batch_size=2, sequence_length=6)
    assert config.hidden_size == 850
    rng = np.random.default_rng(0)
    batches = epoch_batches(rng.integers(0, 20, 200).astype(np.int32), 2, 6, [0, 0])
    batches = Batches(*(x[:2, :12] for x in batches))
    state = model.start(jax.random.key(0), 20, config)
    assert sum(x.size for x in jax.tree.leaves(state.params)) == 13 * 2 * 850**2 + 20 * 850 + 20
    before = jax.tree.map(np.asarray, state.params)
    state, loss = trained(state, batches, config)
    assert abs(float(loss) - math.log(20)) < 0.5  # it starts near to uniform
    after = jax.tree.map(np.asarray, state.params)
    moved = math.sqrt(sum(np.sum((after[n] - before[n]) ** 2) for n in before))
    assert np.isfinite(moved)
    lengths = batches.counted.sum(axis=1)
    longest = config.learning_rate * np.sum(lengths) / config.sequence_length * config.clip
    assert 0.1 < moved < 1.001 * longest
    cell = RnnCellSpace("nao").decode(CELL)
    first, again = (float(model.evaluate(after, cell, batches, "nao")) for _ in range(2))
    assert math.isfinite(first)
    assert first == again  # nothing is dropped
