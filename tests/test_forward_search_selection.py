"""Which candidates stay, and how a child begins where its parent stands."""

import functools

import forward_networks as networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spd_jax.errors import UserError
from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import image_net, selection, training
from spd_jax.forward_search import scope as scope_lib
from spd_jax.forward_search.arch import Arch, Edge
from spd_jax.forward_search.scope import Scope

EDGES = tuple(Edge(0, op) for op in arch_lib.IMAGE_OPS)


def test_a_large_negative_alpha_wins():
    scores = selection.scores_of({"normal": [0.1, -0.5, 0.3]}, {"normal": np.zeros((3, 3))}, 1)[
        "alpha"
    ]["normal"]
    assert selection.choose(EDGES[:3], scores, 2) == (EDGES[1], EDGES[2])


def test_ties_go_to_the_lower_number_and_what_is_not_finite_never_stays():
    assert selection.choose(EDGES[:4], [1.0, 2.0, 2.0, np.nan], 3) == (EDGES[1], EDGES[2], EDGES[0])
    assert selection.choose(EDGES[:3], [np.nan, -9.0, np.inf], 3) == (EDGES[1],)
    assert selection.choose(EDGES[:2], [None, np.nan], 3) == ()  # a file writes NaN as null


def test_what_does_not_fit_is_passed_over():
    found = selection.choose(EDGES, [7, 6, 5, 4, 3, 2, 1], 2, lambda own: EDGES[0] not in own)
    assert found == (EDGES[1], EDGES[2])


def test_scores_must_be_one_for_each_candidate():
    with pytest.raises(UserError, match="one for each"):
        selection.choose(EDGES, [1.0], 3)
    with pytest.raises(UserError, match="unknown selector"):
        selection.scores_by("best", None, [0], {"normal": 3})
    with pytest.raises(UserError, match="needs a weak training"):
        selection.scores_by("alpha", None, [0], {"normal": 3})


def test_signals_are_means_and_their_certainty():
    steps = np.array([[1.0, 3.0], [2.0, 2.0]])  # dL/d alpha of two candidates at two steps
    alpha = np.array([0.5, -1.0])
    sums = np.stack([steps.sum(1), (steps**2).sum(1), -alpha * steps.sum(1)])
    found = selection.scores_of({"a": alpha}, {"a": sums}, 2)
    np.testing.assert_allclose(found["gradient"]["a"], [2, 2])
    np.testing.assert_allclose(found["certain"]["a"][0], 2 / (1 / np.sqrt(2)))
    assert found["certain"]["a"][1] > 1e6  # the second never changes
    np.testing.assert_allclose(found["signed"]["a"], [-1.0, 2.0])


def test_random_choices_follow_their_seed():
    counts = {"normal": 14, "reduction": 21}
    one, two, other = (selection.random_scores(s, counts) for s in ([1, 2], [1, 2], [1, 3]))
    assert [len(one[slot]) for slot in counts] == [14, 21]
    np.testing.assert_array_equal(one["normal"], two["normal"])
    assert not np.array_equal(one["normal"], other["normal"])


# Finalisation


@functools.partial(jax.jit, static_argnums=0, compiler_options=networks.FAST)
def logits_of(arch, weights, averages, images):
    return networks.IMAGES.net.logits(Scope(weights, averages, True), arch, images)[0]


def learners_of(arch, weights, averages, images):
    """Return what every learner of a network computes, by cell and number."""
    found = {}

    def spy(self, k, edges, learners):
        found[self.path, k] = original(self, k, edges, learners)
        return found[self.path, k]

    original = image_net._Cell._learner
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_net._Cell, "_learner", spy)
        networks.IMAGES.net.logits(Scope(weights, averages, True), arch, images)
    return found


@pytest.fixture(scope="module")
def finalised():
    """Return a weakly trained parent and its child, with logits and gradients of both."""
    with jax.enable_x64(True):
        model, arch = networks.IMAGES, networks.image_arch()
        weak, averages = networks.drawn(model, arch, arch.slots, dtype=np.float64)
        child = arch.grown(
            {"normal": [Edge(2, "identity"), Edge(0, "sep3")], "reduction": [Edge(1, "max3")]}
        )
        need = training.recorded(model, child)
        weights = scope_lib.inherited(1, need.weights, weak, np.float64)
        kept = scope_lib.inherited(1, need.averages, averages, np.float64)
        batch = networks.images(dtype=np.float64)
        parent = {path: weak[path] for path in training.recorded(model, arch).weights}

        def loss(weights, taps, arch, averages):
            scope = Scope(weights, averages, True, taps=taps)
            return model.loss(scope, arch, batch, None)

        taps = {"cell0": jnp.zeros((6, 4, 4, 2)), "cell1": jnp.zeros((6, 2, 2, 4))}
        gradients = jax.jit(
            jax.grad(loss, (0, 1)), static_argnums=2, compiler_options=networks.FAST
        )
        own, _ = gradients(weights, {}, child, kept)
        before, slopes = gradients(parent, taps, arch, averages)
        logits = [
            logits_of(own_arch, w, a, batch.images)
            for w, a, own_arch in ((weights, kept, child), (parent, averages, arch))
        ]
        learner = jax.jit(learners_of, static_argnums=0, compiler_options=networks.FAST)(
            child, weights, kept, batch.images
        )
    return weak, weights, logits, own, before, slopes, learner


def test_a_child_computes_what_its_parent_does(finalised):
    _, _, (child, parent), *_ = finalised
    # Two programs, which may round differently: some 4e-16 in float64.
    np.testing.assert_allclose(child, parent, rtol=0, atol=1e-14)


def test_weights_are_inherited_by_path(finalised):
    weak, weights, *_ = finalised
    shared = set(weak) & set(weights)
    assert "cell0/learner1/0:sep3/first/depthwise" in shared  # an operation of a candidate
    for path in shared:
        np.testing.assert_array_equal(weak[path], weights[path])
    new = set(weights) - set(weak)
    assert new >= {"cell0/learner1/eta", "cell1/learner0/merge/kernel"}
    assert not {path for path in new if ":" in path}


def test_only_the_new_etas_have_a_gradient_at_first(finalised):
    _, weights, _, own, before, slopes, learner = finalised
    new = {path for path in weights if path not in before}
    for path in new:
        assert np.any(own[path]) == path.endswith("eta"), path
    for path, gradient in before.items():
        np.testing.assert_allclose(own[path], gradient, rtol=1e-9, atol=1e-13)
    for cell, k in (("cell0", 1), ("cell1", 0)):
        product = np.sum(np.asarray(slopes[cell]) * np.asarray(learner[cell, k]))
        np.testing.assert_allclose(own[f"{cell}/learner{k}/eta"], product, rtol=1e-9)


def test_a_weighted_sum_is_a_projection_of_the_concatenation():
    learner = (Edge(0, "max3"), Edge(1, "identity"), Edge(1, "sep3"))
    arch = Arch("cell", ("normal",), ((learner,),))
    factors = np.array([0.5, -2.0, 1.5], np.float32)
    outputs = []
    for merge in ("sum", "plain"):
        net = networks.IMAGES.net.__class__((4, 4, 1), 3, 2, 2, merge=merge)
        model = networks.IMAGES.__class__(net, 6)
        weights, averages = networks.drawn(model, arch)
        if merge == "sum":
            weights["cell0/learner0/merge"] = factors
        else:
            kernel = np.concatenate([factor * np.eye(2, dtype=np.float32) for factor in factors])
            weights["cell0/learner0/merge/kernel"] = kernel
        scope = Scope(weights, averages, True)
        outputs.append(net.logits(scope, arch, networks.images(count=2).images)[0])
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)


def test_in_a_cell_search_alpha_is_shared_by_a_kinds_cells():
    """Its gradient is the sum of those of a macro search, where every cell has its own."""
    cells = Arch("cell", ("normal", "normal"), (), ("max3", "identity"))
    macro = Arch("macro", ("normal", "normal"), (), ("max3", "identity"))
    gradients = []
    with jax.enable_x64(True):
        batch = networks.images(dtype=np.float64)
        for arch in (cells, macro):
            weights, averages = networks.drawn(networks.IMAGES, arch, arch.slots, dtype=np.float64)
            growth = training.Growth(arch.slots)

            def loss(weights, arch=arch, averages=averages, growth=growth):
                scope = Scope(weights, averages, True)
                return networks.IMAGES.loss(scope, arch, batch, growth)

            gradients.append(jax.jit(jax.grad(loss), compiler_options=networks.FAST)(weights))
    both = gradients[1]["alpha/cell0"] + gradients[1]["alpha/cell1"]
    np.testing.assert_allclose(gradients[0]["alpha/normal"], both, rtol=1e-9)


def test_gains_are_norms_of_a_projections_gradient():
    """Their diagonal is what alpha sees: the trace of dL/dA is dL/d alpha, equation 8."""
    model, arch = networks.IMAGES, Arch("cell", ("normal",), (), ("max3", "identity"))
    weights, averages = networks.drawn(model, arch, arch.slots)
    batch = networks.images()
    batches = jax.tree.map(lambda own: own[None], batch)
    options = {"model": model, "arch": arch, "slots": arch.slots, "coupling": "stopped"}
    probe = training._probe(weights, averages, batches, **options)["cell0"]

    def loss(weights):
        scope = Scope(weights, averages, True)
        return model.loss(scope, arch, batch, training.Growth(arch.slots))

    alpha = jax.jit(jax.grad(loss), compiler_options=networks.FAST)(weights)["alpha/normal"]
    np.testing.assert_allclose(np.trace(probe, axis1=1, axis2=2), alpha, rtol=1e-3, atol=1e-6)
    found = training.gains(model, arch, arch.slots, weights, averages, batches)["normal"]
    np.testing.assert_allclose(found, np.sqrt(np.sum(np.square(probe), (1, 2))), rtol=1e-5)
