"""Settings of a forward search, its presets, and what they make: networks, data, rules."""

import dataclasses
from typing import Any

from spd_jax.data import images, texts
from spd_jax.errors import UserError
from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import selection, training, weak
from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.image_data import ImageParts
from spd_jax.forward_search.image_data import load as load_images
from spd_jax.forward_search.image_model import ImageModel, ImageProblem
from spd_jax.forward_search.image_net import MERGES, ImageNet
from spd_jax.forward_search.jobs import Training
from spd_jax.forward_search.ops import CONV_FORMS, default_conv_form
from spd_jax.forward_search.recurrent_net import RecurrentNet
from spd_jax.forward_search.search import Rules
from spd_jax.forward_search.text_model import TextModel, TextProblem
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class ForwardSettings:
    """Settings of a run. What a preset decides can be changed one by one."""

    preset: str = setting("digits", "settings that all others change")
    seed: int = setting(0, "first seed", at_least=0, at_most=2000)
    num_seeds: int = setting(1, "seeds to run", at_least=1, at_most=1000, grows=True, flag="seeds")
    search: str = setting("cell", "what grows as one", choices=arch_lib.SEARCHES, by_preset=True)
    growths: int = setting(2, "children that a search trains", at_least=1, grows=True,
                           by_preset=True)  # fmt: skip
    select: str = setting("alpha", "which candidates stay", choices=tuple(selection.SELECTORS))
    edges: int = setting(3, "operations of a new learner, the paper's I_max", at_least=1)
    dataset: str = setting("digits", "images", choices=images.NAMES, by_preset=True)
    train_images: int = setting(896, "images to train on", at_least=1, by_preset=True)
    valid_images: int = setting(400, "images that choose", at_least=1, by_preset=True)
    test_images: int = setting(501, "images of the final evaluation", at_least=1, by_preset=True)
    halved: bool = setting(False, "take means of 2 x 2 pixels", by_preset=True)
    crop: int = setting(0, "padding of random crops, pixels", at_least=0, by_preset=True)
    flip: bool = setting(False, "mirror images at random", by_preset=True)
    cutout: int = setting(0, "side of the square that is cut out", at_least=0, by_preset=True)
    normal: int = setting(1, "N, normal cells at each size", at_least=1, at_most=100,
                          by_preset=True)  # fmt: skip
    transitions: int = setting(1, "reductions of the size", at_least=0, at_most=6, by_preset=True)
    filters: int = setting(4, "F, width of the first cells", at_least=1, by_preset=True)
    stem_stride: int = setting(1, "stride of the stem", at_least=1, at_most=2, by_preset=True)
    ops: tuple[str, ...] = setting(
        (), "operations to choose from; default: all of the search",
        choices=(*arch_lib.IMAGE_OPS, *(op for op in arch_lib.HIGHWAY_OPS if op != "identity")),
    )  # fmt: skip
    conv_form: str = setting(
        "auto", "how separable convolutions are computed; auto: what is fastest on this device",
        choices=("auto", *CONV_FORMS), free=True,
    )  # fmt: skip
    merge: str = setting("concat", "how a learner's operations are joined", choices=MERGES)
    candidate_scale: bool = setting(False, "a learnt scale in the last normalisation of candidates")
    coupling: str = setting(
        "stopped", "how candidates are kept from their parent", choices=weak.COUPLINGS
    )
    drop_path: float = setting(0.0, "largest share of dropped operations", at_least=0,
                               at_most=0.99, by_preset=True)  # fmt: skip
    auxiliary: float = setting(0.0, "weight of an auxiliary head", at_least=0)
    level: str = setting("word", "tokens of a text", choices=texts.LEVELS, by_preset=True)
    train_tokens: int = setting(0, "first tokens to train on; 0: all", at_least=0, at_most=10**10,
                                by_preset=True)  # fmt: skip
    eval_tokens: int = setting(0, "first tokens to evaluate on; 0: all", at_least=0, by_preset=True)
    hidden: int = setting(32, "width of a recurrent cell", at_least=1, by_preset=True)
    sequence_length: int = setting(35, "tokens of a sequence", at_least=2, by_preset=True)
    dropout_input: float = setting(0.0, "of embeddings", at_least=0, at_most=0.99, by_preset=True)
    dropout_state: float = setting(0.0, "of states", at_least=0, at_most=0.99, by_preset=True)
    dropout_output: float = setting(0.0, "of outputs", at_least=0, at_most=0.99, by_preset=True)
    batch_size: int = setting(64, "images, or rows of text, in a batch", at_least=1, by_preset=True)
    optimiser: str = setting("sgd", "optimiser", choices=training.OPTIMISERS, by_preset=True)
    learning_rate: float = setting(0.05, "at the start of each phase", at_least=0, by_preset=True)
    schedule: str = setting("cosine", "of the rate", choices=training.SCHEDULES, by_preset=True)
    weight_decay: float = setting(3e-4, "L2 of kernels", at_least=0, by_preset=True)
    clip: float = setting(5.0, "largest norm of a gradient; 0: any", at_least=0, by_preset=True)
    penalty: float = setting(1e-3, "lambda, factor of sum |alpha|", at_least=0)
    gate: float = setting(
        1.0, "factor of the candidates' gradients; 0: 1 over the number of images", at_least=0
    )
    seed_epochs: int = setting(30, "epochs of the seed", at_least=1, by_preset=True)
    weak_epochs: int = setting(10, "epochs of a weak training", at_least=1, by_preset=True)
    child_epochs: int = setting(30, "epochs of a child", at_least=1, by_preset=True)
    width: int = setting(1, "growths of one search under way at once", at_least=1, by_preset=True)
    band: float = setting(0.025, "models so much above the hull may grow", at_least=0)
    finalised_slots: int = setting(0, "slots that grow at once; 0: all", at_least=0)
    max_depth: int = setting(8, "most learners of a slot", at_least=1)
    max_multiply_adds: int = setting(
        0, "budget that no grown network exceeds; 0: none", at_least=0, at_most=10**12
    )
    drop_outside: bool = setting(False, "a model outside the band never grows again")
    single_slots: tuple[str, ...] = setting(
        (), "slots whose single edges are trained, to compare selectors; default: all", free=True
    )
    repeats: int = setting(
        2, "trainings of every single edge that selectors are compared with", at_least=1,
        grows=True,
    )  # fmt: skip


PRESETS: dict[str, dict[str, Any]] = {
    # Narrow, so that there is room to grow; chosen on seed 100, which no table uses.
    "digits": {"filters": 2, "crop": 1, "seed_epochs": 60, "child_epochs": 40},
    "mnist_cpu": {
        "dataset": "mnist", "train_images": 4000, "valid_images": 2000, "test_images": 5000,
        "halved": True,
    },
    "cifar10_cpu": {
        "dataset": "cifar10", "train_images": 4000, "valid_images": 1000, "test_images": 2000,
        "crop": 4, "flip": True, "filters": 8, "stem_stride": 2, "transitions": 2,
        "seed_epochs": 40, "weak_epochs": 4, "child_epochs": 12, "growths": 4, "width": 2,
    },
    "rnn_cpu": {
        "search": "rnn", "level": "character", "train_tokens": 50_000, "eval_tokens": 25_000,
        "hidden": 32, "sequence_length": 32, "batch_size": 32, "optimiser": "adam",
        "learning_rate": 6e-3, "weight_decay": 0.0, "clip": 1.0, "seed_epochs": 6,
        "weak_epochs": 2, "child_epochs": 4,
    },
    "paper_rnn": {
        "search": "rnn", "hidden": 850, "optimiser": "adam", "learning_rate": 1e-4,
        "schedule": "decay", "weight_decay": 8e-7, "clip": 0.25, "dropout_input": 0.4,
        "dropout_state": 0.25, "dropout_output": 0.5, "seed_epochs": 300, "weak_epochs": 80,
        "child_epochs": 80, "growths": 20,
    },
}  # fmt: skip
_PAPER = {
    "normal": 3, "transitions": 2, "filters": 16, "batch_size": 32, "learning_rate": 0.025,
    "weight_decay": 2e-4, "crop": 4, "flip": True, "cutout": 16, "drop_path": 0.4,
    "dataset": "cifar10", "train_images": 45_000, "valid_images": 5_000, "test_images": 10_000,
    "seed_epochs": 200, "weak_epochs": 80, "child_epochs": 80, "growths": 20, "width": 4,
}  # fmt: skip
for _name in ("cell", "macro"):
    PRESETS[f"paper_{_name}"] = {**_PAPER, "search": _name}


def problem_of(settings: ForwardSettings, data_dir: str | None, filters: int | None = None) -> Any:
    """Return networks and data; raises UserError where data are missing."""
    if settings.search == "rnn":
        corpus = texts.load(data_dir, settings.level)
        return TextProblem(
            text_model(settings, len(corpus.vocabulary), filters), data_dir, settings.level,
            settings.train_tokens, settings.eval_tokens,
        )  # fmt: skip
    parts = ImageParts(
        settings.dataset, data_dir, settings.train_images, settings.valid_images,
        settings.test_images, settings.halved,
    )  # fmt: skip
    found = load_images(parts)
    height, width, channels = found.train.inputs.shape[1:]
    model = image_model(settings, (height, width, channels), found.classes, filters)
    return ImageProblem(parts, model)


def text_model(settings: ForwardSettings, vocabulary: int, hidden: int | None = None) -> TextModel:
    """Return the recurrent networks of settings; `hidden` stands for the settings' own width."""
    keeps = (
        1 - own for own in (settings.dropout_input, settings.dropout_state, settings.dropout_output)
    )
    net = RecurrentNet(vocabulary, hidden or settings.hidden, True, *keeps)
    return TextModel(net, settings.batch_size, settings.sequence_length)


def image_model(
    settings: ForwardSettings,
    shape: tuple[int, int, int],
    classes: int,
    filters: int | None = None,
) -> ImageModel:
    """Return the image networks of settings; `filters` stands for the settings' own width."""
    form = default_conv_form() if settings.conv_form == "auto" else settings.conv_form
    net = ImageNet(
        shape, classes, filters or settings.filters, stem_stride=settings.stem_stride,
        conv_form=form, merge=settings.merge, candidate_scale=settings.candidate_scale,
        drop_path=settings.drop_path, auxiliary=settings.auxiliary,
    )  # fmt: skip
    return ImageModel(net, settings.batch_size, settings.crop, settings.flip, settings.cutout)


def training_of(settings: ForwardSettings, problem: Any, folder: str, seed: int) -> Training:
    """Return how the jobs of a seed train."""
    optimiser = training.Optimiser(
        settings.optimiser, settings.clip, settings.weight_decay, settings.coupling
    )
    gate = settings.gate or 1 / problem.count
    return Training(
        problem, folder, seed, optimiser, settings.learning_rate, settings.schedule,
        settings.penalty, gate,
    )  # fmt: skip


def rules_of(settings: ForwardSettings, seed: int) -> Rules:
    """Return how a seed's search grows."""
    return Rules(
        seed, settings.growths, settings.seed_epochs, settings.weak_epochs, settings.child_epochs,
        settings.select, settings.edges, settings.band, settings.finalised_slots,
        settings.max_depth, settings.max_multiply_adds, settings.drop_outside,
        settings.width,
    )  # fmt: skip


def seed_arch(settings: ForwardSettings) -> Arch:
    """Return the architecture that every search starts from."""
    return arch_lib.seed(settings.search, settings.normal, settings.transitions, settings.ops)


def check(settings: ForwardSettings) -> None:
    """Refuse settings with which nothing can be run; raises UserError."""
    settings_lib.check(settings)
    known = arch_lib.HIGHWAY_OPS if settings.search == "rnn" else arch_lib.IMAGE_OPS
    for op in settings.ops:
        if op not in known:
            raise UserError(
                f"ops={op} is none of search={settings.search}: use some of {', '.join(known)}"
            )
    slots = seed_arch(settings).slots
    for slot in settings.single_slots:
        if slot not in slots:
            raise UserError(f"single_slots={slot} is no slot: use some of {', '.join(slots)}")
    if settings.select in selection.RANKED and settings.search == "rnn":
        raise UserError(f"select={settings.select} is for image networks: use another selector")
