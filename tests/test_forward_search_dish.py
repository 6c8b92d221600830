"""Looks at candidates: a dish in which each trains alone, and norms of projections' gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import dish_selector, jobs, training
from spd_jax.forward_search.image_data import ImageParts
from spd_jax.forward_search.image_model import ImageModel, ImageProblem
from spd_jax.forward_search.image_net import ImageNet
from spd_jax.forward_search.jobs import Job, Training
from spd_jax.forward_search.scope import Scope

NET = ImageNet((4, 4, 1), 10, 2, 2)
SEED = arch_lib.seed("cell", 1, 0, ("max3", "identity"))


def test_a_motif_of_one_candidate_is_the_network_that_grew_by_it():
    family = dish_selector.family(NET, SEED, SEED.slots)
    params = family.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (6, 4, 4, 1))
    motifs = dish_selector.motifs(SEED, SEED.slots)
    summed = dataclasses.replace(NET, merge="sum")
    for place, edge in enumerate(SEED.candidates("normal")):
        motif = {slot: own[place] for slot, own in motifs.items()}
        child = SEED.grown({"normal": [edge]})
        decided = {"cell0/learner0/eta": jnp.ones(()), "cell0/learner0/merge": jnp.ones(1)}
        scope = Scope(params | decided, {}, training=True)
        wanted, _ = summed.logits(scope, child, images)
        np.testing.assert_allclose(family.apply(params, motif, images), wanted, atol=1e-5)
    plain, _ = NET.logits(Scope(params, {}, training=True), SEED, images)
    none = jax.tree.map(jnp.zeros_like, motif)
    np.testing.assert_allclose(family.apply(params, none, images), plain, atol=1e-5)


def test_looks_are_jobs(tmp_path):
    problem = ImageProblem(ImageParts("digits", None, 64, 50, 50, halved=True), ImageModel(NET, 32))
    own = Training(problem, str(tmp_path), 3)
    need = training.recorded(problem.model, SEED, SEED.slots)
    draw = jobs.scope_lib.draw
    jobs.save(own.path("weak"), SEED, draw(0, need.weights), draw(0, need.averages))
    look = Job(2, "projection", SEED, 0, "weak", 0, 1, SEED.slots)

    def scores(**changes):
        job = dataclasses.replace(look, **changes)
        result = jobs.run(own, job)
        assert (result.status, result.unit) == ("ok", job.kind)
        assert result.info["train_multiply_adds"] > 0
        (values,) = result.info["scores"][job.kind].values()
        assert len(values) == len(SEED.candidates("normal"))
        assert result.score == max(values)
        return values

    trained = scores()
    assert scores(number=5) == trained  # the weights decide
    initial = scores(kind="proxy")
    assert initial != trained
    assert len(set(initial)) > 1
    in_a_dish = scores(kind="dish")
    assert len(set(in_a_dish)) == len(in_a_dish)
    assert scores(kind="dish") == in_a_dish
