"""Architectures: canonical text, JSON, candidates, scaling; costs counted by hand."""

import forward_networks as networks
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_jax.errors import UserError
from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import ops, scope, training
from spd_jax.forward_search.arch import Arch, Edge
from spd_jax.forward_search.image_model import ImageModel
from spd_jax.forward_search.image_net import ImageNet
from spd_jax.forward_search.recurrent_net import RecurrentNet
from spd_jax.forward_search.text_model import TextModel


@st.composite
def grown_archs(draw):
    """Draw an architecture that grew up to three times."""
    search = draw(st.sampled_from(arch_lib.SEARCHES))
    some = draw(st.booleans())
    ops_ = ("relu", "identity") if search == "rnn" else ("dil5", "avg3", "identity")
    arch = arch_lib.seed(search, draw(st.integers(1, 2)), 1, ops_ if some else ())
    for _ in range(draw(st.integers(0, 3))):
        slots = draw(st.sets(st.sampled_from(arch.slots), min_size=1))
        chosen = {
            slot: draw(
                st.lists(
                    st.sampled_from(arch.candidates(slot)), min_size=1, max_size=3, unique=True
                )
            )
            for slot in slots
        }
        arch = arch.grown(chosen)
    return arch


@given(grown_archs())
def test_text_and_json_lead_back(arch):
    assert arch_lib.parse(str(arch)) == arch
    assert arch_lib.from_json(arch.to_json()) == arch
    assert hash(arch_lib.parse(str(arch))) == hash(arch)


def test_the_text_is_canonical():
    one = Arch("cell", ("normal",), ((((1, "max3"), (0, "sep3")),),))
    two = Arch("cell", ("normal",), (((Edge(0, "sep3"), Edge(1, "max3")),),))
    assert one == two
    assert str(one) == "cell n normal[0:sep3,1:max3]"


def test_candidates_are_inputs_times_operations_in_the_order_of_their_numbers():
    arch = arch_lib.seed("cell", 1, 1)
    assert [len(arch.candidates(slot)) for slot in arch.slots] == [14, 14]
    grown = arch.grown({"normal": [Edge(1, "sep5")]})
    assert [len(grown.candidates(slot)) for slot in grown.slots] == [21, 14]
    edges = grown.candidates("normal")
    assert [grown.number(edge) for edge in edges] == list(range(21))
    assert edges[8] == Edge(1, "sep5")
    assert edges[20] == Edge(2, "identity")
    assert len(arch_lib.seed("rnn").candidates("recurrent")) == 40


def test_slots_are_kinds_or_cells():
    assert arch_lib.seed("cell", 3, 2).slots == ("normal", "reduction")
    macro = arch_lib.seed("macro", 3, 2)
    assert len(macro.slots) == 11
    assert macro.kinds[3] == macro.kinds[7] == "reduction"
    assert arch_lib.seed("rnn").slots == ("recurrent",)


def test_scaling_repeats_cells():
    cell = arch_lib.seed("cell", 1, 2).grown({"normal": [Edge(0, "max3")]})
    assert arch_lib.scaled(cell, 6).kinds == arch_lib.seed("cell", 6, 2).kinds
    assert arch_lib.scaled(cell, 6).learners("normal") == cell.learners("normal")
    macro = arch_lib.seed("macro", 2, 1).grown({"cell1": [Edge(0, "max3")]})
    wide = arch_lib.scaled(macro, 4)
    assert "".join(kind[0] for kind in wide.kinds) == "nnnnrnnnn"
    grown = [bool(wide.learners(slot)) for slot in wide.slots]
    assert grown == [False, False, True, True, *[False] * 5]
    with pytest.raises(UserError, match="multiple of 2"):
        arch_lib.scaled(macro, 3)
    with pytest.raises(UserError, match="width"):
        arch_lib.scaled(arch_lib.seed("rnn"), 6)


@pytest.mark.parametrize(
    "text",
    [
        "", "cell", "cell nx", "cell n normal[0:sep9]", "cell n normal[2:sep3]",
        "cell n reduction[0:sep3]", "cell n normal[0:sep3,0:sep3]", "cell n normal[]",
        "cell n normal0:sep3", "grid n", "rnn rnn cell0[0:relu]", "cell n ops=sep9",
        "cell n ops=max3 normal[0:sep3]",
    ],
)  # fmt: skip
def test_what_is_no_architecture_is_refused_in_one_sentence(text):
    with pytest.raises(UserError) as error:
        arch_lib.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [None, {}, {"search": "cell", "kinds": ["normal"], "specs": 3}, []]
)
def test_json_that_is_no_architecture_is_refused(data):
    with pytest.raises(UserError, match="no architecture"):
        arch_lib.from_json(data)


def sep(k, width):
    """Return the weights of a separable convolution without normalisation, done twice."""
    return 2 * (k * k * width + width * width)


def test_costs_of_the_seed_by_hand():
    """F = 2, stem 2 F = 4 wide, 4 x 4 images of one channel, 3 classes, cells n r n."""
    arch = networks.seed_arch()
    found = training.recorded(networks.IMAGES, arch)
    stem = 9 * 1 * 4
    normal = 4 * 2 + sep(3, 2)  # its input is brought from 4 to 2 channels
    reduction = 2 * 4 + sep(3, 4) + 4 * 4  # from 2 to 4, and the identity's strided 1 x 1
    last = sep(3, 4)
    head = 4 * 4
    assert found.multiply_adds == (
        16 * stem
        + 16 * normal
        + 16 * 2 * 4 + 4 * sep(3, 4) + 4 * 4 * 4
        + 4 * last
        + 4 * head + 0.5 * 4 * 4 + 4 * 3
    )  # fmt: skip
    norms = 2 * 4 + (2 * 2 + 4 * 2) + (2 * 4 + 4 * 4 + 2 * 4) + 4 * 4 + 4 * 4
    assert found.parameters == stem + normal + reduction + last + head + 4 * 3 + 3 + norms


def test_costs_of_a_learner_by_hand():
    seed = networks.seed_arch()
    learner = [Edge(0, "max3"), Edge(1, "sep3"), Edge(1, "identity")]
    before = training.recorded(networks.IMAGES, seed)
    after = training.recorded(networks.IMAGES, seed.grown({"normal": learner}))
    first = 16 * (4 * 2) + 16 * sep(3, 2) + 4.5 * 16 * 2 + 16 * 3 * 2 * 2
    # The last cell's input 0 is the first cell's output: 2 channels of 16 pixels to 4 of 4.
    last = 4 * (2 * 4) + 4 * sep(3, 4) + 4.5 * 4 * 4 + 4 * 3 * 4 * 4
    assert after.multiply_adds - before.multiply_adds == first + last
    own = sum(
        in_ * width + 2 * width + sep(3, width) + 2 * width + 3 * width * width + 2 * width + 1
        for in_, width in ((4, 2), (2, 4))
    )
    assert after.parameters - before.parameters == own


def test_the_papers_seed_has_its_size():
    """Table 1: N = 6, F = 32 has 0.4 million parameters."""
    model = ImageModel(ImageNet((32, 32, 3), 10, filters=32))
    found = training.recorded(model, arch_lib.seed("cell", 6, 2))
    assert 0.35e6 < found.parameters < 0.45e6


def test_costs_of_a_recurrent_cell_by_hand():
    found = training.recorded(TextModel(RecurrentNet(5, 3), 2, 3), arch_lib.seed("rnn"))
    assert found.parameters == 5 * 3 + 5 + 6 * 6 + 8 * 3 * 6
    assert found.multiply_adds == 5 * 3 + 6 * 6 + 8 * 3 * 6


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("length", [8, 17])  # kernels larger and smaller than the image
def test_all_forms_of_a_convolution_agree(size, stride, dilation, length):
    generator = np.random.default_rng(size)
    x = generator.normal(size=(2, length, length, 3)).astype(np.float32)
    depthwise = generator.normal(size=(size, size, 3)).astype(np.float32)
    pointwise = generator.normal(size=(3, 3)).astype(np.float32)
    found = [
        ops.separable_form(x, depthwise, pointwise, stride, dilation, form)
        for form in ops.CONV_FORMS
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-5, atol=1e-5)


def test_a_normalised_batch_has_the_gradients_of_its_formula():
    def plain(x, gamma, offset):
        mean, variance = x.mean((0, 1)), x.var((0, 1))
        return (x - mean) / jax.numpy.sqrt(variance + scope.EPSILON) * gamma + offset

    generator = np.random.default_rng(0)
    weights, x = generator.normal(size=(2, 4, 5, 3)).astype(np.float32)
    gamma, offset = generator.normal(size=(2, 3)).astype(np.float32)
    own = scope.batch_normalised(x, gamma, offset)
    np.testing.assert_allclose(own[0], plain(x, gamma, offset), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own[1], x.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own[2], x.var((0, 1)), rtol=1e-4)
    found, wanted = (
        jax.grad(lambda *args, f=f: (weights * f(*args)).sum(), (0, 1, 2))(x, gamma, offset)
        for f in (lambda *args: scope.batch_normalised(*args)[0], plain)
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["max3", "avg3"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("length", [5, 6])
def test_pools_are_those_of_plain_loops(op, stride, length):
    x = np.random.default_rng(0).normal(size=(1, length, length, 2)).astype(np.float32)
    outputs = -(-length // stride)
    before = max((outputs - 1) * stride + 3 - length, 0) // 2
    wanted = np.zeros((1, outputs, outputs, 2), np.float32)
    for i in range(outputs):
        for j in range(outputs):
            rows, columns = (
                (slice(max(k * stride - before, 0), k * stride - before + 3)) for k in (i, j)
            )
            patch = x[:, rows, columns]
            wanted[:, i, j] = patch.max((1, 2)) if op == "max3" else patch.mean((1, 2))
    np.testing.assert_allclose(
        ops.pool(jax.numpy.asarray(x), op, stride), wanted, rtol=1e-5, atol=1e-6
    )
