"""surrogates/nao.py and token_network.py: the network, its training, the surrogate."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nao_cells import BEST, CELLS, KEY, KNOWN, NEW, QUICK, SCORES, SPACE, TINY, Words, additive
from scipy.special import expit, log_softmax, softmax

from spd_jax import archs as archs_lib
from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.spaces.rnn_cell import RnnCell
from spd_jax.surrogates import nao
from spd_jax.surrogates.nao import NaoPredictor


@pytest.fixture(scope="module")
def fitted():
    return NaoPredictor(SPACE, dataclasses.replace(QUICK, held_out_share=0.25)).fit(
        KEY, KNOWN, SCORES
    )


def random_params(network, seed, scale):
    """Return weights, biases as well, that are far from their initial values."""
    shapes = jax.eval_shape(network.init, KEY, np.ones((1, len(network.legal)), int))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.float32(scale * rng.normal(size=x.shape)), shapes)


# The network against plain NumPy


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def numpy_lstm(weights, token, output, cell):
    embedded = weights["tokens"]["embedding"][token]
    gates = embedded @ weights["inputs"]["kernel"] + weights["inputs"]["bias"]
    i, f, v, o = np.split(gates + output @ weights["recurrent"], 4)
    cell = expit(f) * cell + expit(i) * np.tanh(v)
    return expit(o) * np.tanh(cell), cell


def dense(weights, values):
    return values @ weights["kernel"] + weights["bias"]


def oracle(params, tokens, legal, layers):
    """Return (prediction, log-probability of each token, greedy spelling) of one cell `[L]`."""
    output = cell = np.zeros(16)
    vectors = []
    for token in tokens:
        output, cell = numpy_lstm(params["encoder"], token, output, cell)
        vectors.append(unit(output))
    vectors = np.array(vectors)
    pooled = values = unit(vectors.mean(0))
    for layer in range(layers):
        values = np.maximum(dense(params[f"layers_{layer}"], values), 0)
    prediction = expit(dense(params["score"], values))[0]

    def spell(forced):
        state, token, log_probabilities, spelling = (pooled, cell), 0, [], []
        for place, row in enumerate(legal):
            state = numpy_lstm(params["decoder"], token, *state)
            context = softmax(vectors @ state[0]) @ vectors
            mixed = np.tanh(dense(params["attention"], np.concatenate([context, state[0]])))
            scores = np.where(row, dense(params["logits"], mixed), -np.inf)
            token = scores.argmax() if forced is None else forced[place]
            log_probabilities.append(log_softmax(scores)[token])
            spelling.append(token)
        return log_probabilities, spelling

    return prediction, spell(tokens)[0], spell(None)[1]


@pytest.mark.parametrize("space", [Words(), SPACE], ids=lambda space: space.name)
def test_the_network_is_that_of_plain_numpy(space):
    network = nao.build(space, TINY)
    params = random_params(network, 1, 0.4)
    tokens = space.to_tokens(space.sample(jax.random.key(2), 20))
    predicted, log_probabilities = jax.jit(network.apply)({"params": params}, tokens)
    spelled = nao.move(network, params, tokens, step=0.0)[0]
    for row in range(3):
        expected = oracle(params, tokens[row], space.legal_tokens(), 2)
        np.testing.assert_allclose(predicted[row], expected[0], rtol=1e-4)
        np.testing.assert_allclose(log_probabilities[row], expected[1], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(spelled[row], expected[2])


def test_the_loss_is_error_and_cross_entropy_and_squares():
    network = nao.build(Words(), TINY)
    params = random_params(network, 3, 0.4)
    tokens = Words().to_tokens(Words().sample(KEY, 4))
    targets, counts = np.array([0, 0.2, 0.7, 1.0]), np.array([True, True, False, True])
    parts = [oracle(params, row, Words().legal_tokens(), 2) for row in tokens[counts]]
    error = np.mean((np.array([p[0] for p in parts]) - targets[counts]) ** 2)
    entropy = -np.mean([p[1] for p in parts])
    squares = sum(np.sum(leaf.astype(float) ** 2) for leaf in jax.tree.leaves(params))
    value = jax.jit(nao.loss, static_argnums=1)(
        params, network, TINY, known=(tokens, targets, counts)
    )
    np.testing.assert_allclose(value, 0.8 * error + 0.2 * entropy + 1e-4 * squares, rtol=1e-4)


def test_the_gradient_is_finite_where_a_place_has_one_legal_token():
    network = nao.build(SPACE, TINY)
    params = random_params(network, 4, 0.3)
    known = (SPACE.to_tokens(NEW)[:4], np.ones(4), np.ones(4))
    slope = jax.jit(jax.grad(nao.loss), static_argnums=1)
    for keep in (1.0, 0.0):  # 0 drops everything: vectors of length 0
        gradient = slope(params, network, TINY, known=known, keep=np.full((4, 22, 16), keep))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


# Moving and decoding


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1.0, 30.0]))
@pytest.mark.parametrize("space", [Words(), SPACE], ids=lambda space: space.name)
def test_every_decoded_cell_is_legal_whatever_the_weights(space, seed, scale):
    network = nao.build(space, TINY)
    tokens = space.to_tokens(space.sample(jax.random.key(seed), 20))
    new = np.asarray(nao.move(network, random_params(network, seed, scale), tokens, step=20.0)[0])
    assert space.legal_tokens()[np.arange(new.shape[1]), new].all()
    cells = space.from_tokens(new)
    np.testing.assert_array_equal(space.to_tokens(cells), new)
    if space is SPACE:  # `decode` refuses what is no cell
        for cell in archs_lib.unstack(cells):
            space.decode(space.encode(cell))


@pytest.mark.parametrize("step", [0.01, 1.0, 10.0, 30.0])
def test_a_step_along_the_gradient_raises_the_prediction(fitted, step):
    tokens = SPACE.to_tokens(NEW)[:20]
    _, before, after = nao.move(fitted.network, fitted.params, tokens, step=step)
    assert (after > before).all()
    np.testing.assert_allclose(before, nao.predict(fitted.network, fitted.params, tokens), 1e-5)


def test_improved_cells_are_better_than_random_ones(fitted):
    improved = fitted.improve(BEST, 10.0)
    assert isinstance(improved, RnnCell)
    assert additive(improved).mean() > additive(NEW).mean() + additive(NEW).std()


# The surrogate


def test_it_learns_an_additive_score(fitted):
    predictions = fitted.predict(NEW)
    assert predictions.shape == (100,)
    assert predictions.dtype == np.float64
    assert metrics.kendall_tau(predictions, additive(NEW)) > 0.4
    assert SCORES.min() <= predictions.min() < predictions.max() <= SCORES.max()
    assert 0.6 < fitted.pairwise_accuracy <= 1


def test_cells_that_measure_the_accuracy_are_not_trained_on(monkeypatch, fitted):
    trained, measured = [], []

    def train(*_, tokens, scores):
        trained.append(scores.tolist())
        return fitted.params

    def accuracy(predicted, true):
        measured.append(true.tolist())
        return 0.5

    monkeypatch.setattr(nao, "train", train)
    monkeypatch.setattr(nao, "pairwise_accuracy", accuracy)
    scores = np.arange(40.0)
    assert fitted.predictor.fit(KEY, KNOWN, scores).pairwise_accuracy == 0.5
    assert len(measured) == 1
    assert len(measured[0]) == 10
    assert sorted(trained[0] + measured[0]) == scores.tolist() == trained[1]


def test_the_unit_of_the_scores_does_not_matter_to_the_accuracy(fitted):
    again = fitted.predictor.fit(KEY, KNOWN, 1000 * SCORES - 7)
    np.testing.assert_allclose(again.predict(NEW), 1000 * fitted.predict(NEW) - 7, rtol=1e-3)
    assert again.pairwise_accuracy == pytest.approx(fitted.pairwise_accuracy, abs=0.03)


def test_another_key_gives_another_network(fitted):
    other = fitted.predictor.fit(jax.random.key(6), KNOWN, SCORES)
    assert np.abs(other.predict(NEW) - fitted.predict(NEW)).max() > 1e-3


def test_failed_cells_are_left_out():
    predictor = NaoPredictor(SPACE, TINY)
    failed = np.where(np.arange(40) % 3 == 0, np.nan, SCORES)
    failed[1] = -np.inf
    kept = np.isfinite(failed)
    expected = predictor.fit(KEY, archs_lib.take(KNOWN, kept), SCORES[kept])
    np.testing.assert_array_equal(
        predictor.fit(KEY, KNOWN, failed).predict(NEW), expected.predict(NEW)
    )
    with pytest.raises(UserError, match="1 of 40 scores are finite"):
        predictor.fit(KEY, KNOWN, np.where(np.arange(40) == 7, 1.0, np.nan))


def test_equal_scores_are_predicted_and_none_are_held_out_of_few():
    predictor = NaoPredictor(SPACE, dataclasses.replace(TINY, held_out_share=0.04, epochs=5))
    same = predictor.fit(KEY, archs_lib.take(KNOWN, slice(25)), np.full(25, -2.5))
    np.testing.assert_array_equal(same.predict(NEW), -2.5)
    assert np.isnan(same.pairwise_accuracy)


def test_predictions_do_not_depend_on_their_company(fitted):
    many = SPACE.sample(jax.random.key(8), 300)  # more than one chunk
    predictions = fitted.predict(many)
    for rows in (np.arange(3), np.arange(250, 300)):
        alone = fitted.predict(archs_lib.take(many, rows))
        np.testing.assert_allclose(alone, predictions[rows], rtol=1e-6)


def test_load_takes_the_sizes_from_the_file_and_refuses_another_space(fitted, tmp_path):
    fitted.save(tmp_path / "nao.npz")
    loaded = NaoPredictor(SPACE).load(tmp_path / "nao.npz")  # sizes come from the file
    np.testing.assert_array_equal(loaded.predict(NEW), fitted.predict(NEW))
    assert loaded.pairwise_accuracy == fitted.pairwise_accuracy
    assert loaded.predictor.config == fitted.predictor.config
    for before, after in zip(fitted.improve(BEST, 10), loaded.improve(BEST, 10), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(UserError, match="was fitted on rnn_cell_nao, not words"):
        NaoPredictor(Words()).load(tmp_path / "nao.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0: give at least 1"),
        ({"hidden": 0}, "hidden is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"held_out_share": -0.1}, "held_out_share is -0.1"),
        ({"trade_off": 1.5}, "trade_off is 1.5"),
        ({"l2": float("nan")}, "l2 is nan"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        NaoPredictor(SPACE, dataclasses.replace(TINY, **change)).fit(KEY, KNOWN, SCORES)


def test_a_space_with_illegal_tokens_is_refused():
    archs = {"letters": np.full((4, 5), 2)}  # the first letter must be 0
    with pytest.raises(UserError, match="legal_tokens forbids"):
        NaoPredictor(Words(), TINY).fit(KEY, archs, np.arange(4))


# Training


share = jax.jit(nao.share, static_argnums=(1, 2))


@settings(max_examples=50)
@given(count=st.integers(2, 130), size=st.integers(1, 60), seed=st.integers(0, 99))
def test_an_epoch_takes_every_known_cell_once(count, size, seed):
    batches = -(-count // size)
    seen = []
    for number in range(batches):
        turn = {"number": number, "batches": batches, "count": count}
        chosen, counts = share(jax.random.key(seed), 130, 60, **turn)
        seen += np.asarray(chosen)[np.asarray(counts)].tolist()
        assert counts.sum() in (count // batches, -(-count // batches))
    assert sorted(seen) == list(range(count))


def test_padding_changes_nothing(monkeypatch):
    network = nao.build(SPACE, TINY)
    config = dataclasses.replace(TINY, dropout=0.0, epochs=5)  # dropout would draw other masks
    tokens, scores = SPACE.to_tokens(KNOWN)[:25], SCORES[:25]
    padded = nao.train(KEY, network, config, tokens=tokens, scores=scores)
    monkeypatch.setattr(nao, "_ROWS", 25)
    monkeypatch.setattr(nao, "_CAPACITY", 25)
    exact = nao.train(KEY, network, config, tokens=tokens, scores=scores)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), padded, exact)


def test_other_numbers_of_cells_and_other_rates_do_not_recompile():
    network, tokens, scores = nao.build(SPACE, TINY), SPACE.to_tokens(CELLS), additive(CELLS)
    sizes = []
    for count, change in ((25, {}), (40, {"l2": 0.1}), (75, {"epochs": 3}), (80, {"dropout": 0.5})):
        config = dataclasses.replace(TINY, **({"epochs": 2} | change))
        nao.train(KEY, network, config, tokens=tokens[:count], scores=scores[:count])
        sizes.append(nao._train._cache_size())
    assert sizes == sizes[:1] * 4


def test_pairwise_accuracy_by_hand():
    assert nao.pairwise_accuracy([3, 1, 2], [30, 10, 20]) == 1
    assert nao.pairwise_accuracy([1, 2, 3], [30, 20, 10]) == 0
    assert nao.pairwise_accuracy([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 3)  # a tie is wrong
    assert nao.pairwise_accuracy([1, 2, 3], [5, 5, 6]) == 1  # equal truths ask nothing
    assert np.isnan(nao.pairwise_accuracy([1, 2], [4, 4]))
