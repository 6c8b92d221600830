"""What a page says of each study and picture: the only part of it that knows any experiment."""

from typing import NamedTuple


class Study(NamedTuple):
    """What a page says of a study.

    Attributes:
      title: of the page.
      asked: what the run was to find out, in one or two sentences.
      next: commands that lead on, each with what it is for; `{folder}` is the run folder.
    """

    title: str
    asked: str
    next: tuple[tuple[str, str], ...] = ()


SEARCH_ON = ("python -m spd_jax.ledger list {folder}/ledger.sqlite", "every evaluation, one a line")
LEAGUE = (
    "python -m experiments.compare_surrogates",
    "who ranks held-out motifs best, at what price",
)
STUDIES = {
    "extrapolation": Study(
        "A peak that nobody was shown",
        "The dish learned from slopes of a sigmoid inside a training interval. Does it find the "
        "best slope, which lies outside? (Rawal et al., section 4.1)",
        (
            LEAGUE,
            ("python -m experiments.ablation", "which settings the result needs"),
            ("python -m experiments.carry_over", "whether the dish ranks on other data, too"),
        ),
    ),
    "search_comparison": Study(
        "A search for the best cell",
        "Every method spent the same number of ground truths. Which one found the better cells? "
        "(Rawal et al., Algorithm 1)",
        (SEARCH_ON, LEAGUE),
    ),
    "league": Study(
        "A league of surrogates",
        "Every surrogate saw the same few ground truths. Which one ranks the held-out motifs best, "
        "and what does it cost?",
        (("python -m experiments.search", "whether better ranks make a better search"),),
    ),
    "image_cells": Study(
        "Image cells",
        "Does a dish rank convolutional cells? (Cassimon et al.)",
        (("python -m experiments.image_cells --ablation", "what stood in its way"), LEAGUE),
    ),
    "image_ablation": Study(
        "Image cells: what stood in the way",
        "One setting of the image-cells experiment is changed at a time. Which one decides whether "
        "the dish ranks?",
    ),
    "dish_ablation": Study(
        "What a dish needs",
        "One setting of the dish is changed at a time. Which ones does its ranking need?",
        (("python -m experiments.tune", "a choice of settings by what they rank"),),
    ),
    "carry_over": Study(
        "A dish carried over",
        "The dish learned on one table of ground truth. Does it rank the motifs of another?",
        (LEAGUE,),
    ),
    "forward_search": Study(
        "Forward architecture search",
        "Trained networks grew piece by piece. Do they reach a better trade of error against cost "
        "than the controls? (Hu et al., 2019)",
    ),
    "table": Study(
        "A table of ground truths",
        "Motifs were trained at full size with several seeds: how noisy is a ground truth, and how "
        "well could any surrogate rank?",
        (SEARCH_ON, LEAGUE),
    ),
    "candidates": Study(
        "Settings of a dish, chosen",
        "Candidate settings sat the same exams, on motifs or tables that no reported figure uses.",
    ),
    "benchmark": Study(
        "Speed and memory",
        "How fast is the dish beside the same dish written in other ways, and how does it grow?",
    ),
}

# By the beginning of a file's name; the longest that fits is taken.
PICTURES = {
    "figure1": "Ground truth and predictions against the slope (Rawal et al., figure 1): the "
    "shaded interval is where the known slopes lie.",
    "figure3": "Test result of the cell that is best on validation, against the ground truths "
    "spent (Rawal et al., figure 3).",
    "figure3_seconds": "The same against the seconds of one process, fits included.",
    "figure4": "The dish before and after it learned (Rawal et al., figure 4).",
    "convergence": "Outer loss and rank agreement over the outer steps.",
    "synthetic_data": "The synthetic samples that the dish learned.",
    "synthetic_images": "The synthetic images that the dish learned.",
    "scatter": "What the surrogate predicted against what the evaluation found.",
    "pareto": "Cost against score of every cell that was bought; the front of each method holds "
    "what none of its cells beats in both.",
    "best_cell": "The best cell that was found.",
    "cell": "The best network's cell.",
    "league": "Rank agreement with held-out ground truth against the number of known motifs.",
    "ablation": "Rank agreement of every variant, before and after learning.",
    "carry_over": "Rank agreement on the other table, against the number of known motifs there.",
    "hull": "Error against cost of every network, and the lower hull that is grown from.",
    "growth": "How the networks grew.",
    "alphas": "Weights that chose among the candidates.",
    "outer_loop": "Rank agreement over the outer steps.",
    "inner_curves": "Losses of the motif-networks over their inner training.",
    "max_accuracy": "Accuracy of the best cell among those ranked first.",
    "benchmark": "Seconds of every peer, and how time and memory grow.",
}


def study(name: object) -> Study:
    """Return what is said of a study; of one that is not known, its name."""
    return STUDIES.get(str(name), Study(str(name or "run").replace("_", " "), ""))


def caption(stem: str) -> str:
    """Return the caption of a picture, from its file's name without the ending.

    >>> caption("scatter_dish_ga")
    'What the surrogate predicted against what the evaluation found. (dish ga)'
    """
    fitting = [name for name in PICTURES if stem == name or stem.startswith(f"{name}_")]
    if not fitting:
        return f"{stem.replace('_', ' ')}."
    best = max(fitting, key=len)
    rest = stem[len(best) :].replace("_", " ").strip()
    return PICTURES[best] + (f" ({rest})" if rest else "")
