"""A language whose entropy is known: a Markov source of four letters and an end of line."""

import pathlib

import numpy as np

STATES = ("<eos>", "a", "b", "c", "d")
NEXT = np.array(  # row: now; column: next; a line is never empty
    [
        [0.0, 0.7, 0.1, 0.1, 0.1],
        [0.1, 0.0, 0.8, 0.05, 0.05],
        [0.1, 0.05, 0.0, 0.8, 0.05],
        [0.1, 0.4, 0.05, 0.05, 0.4],
        [0.1, 0.8, 0.05, 0.05, 0.0],
    ]
)


def entropy() -> float:
    """Return the entropy rate in nats per token."""
    values, vectors = np.linalg.eig(NEXT.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    logs = np.log(np.where(NEXT > 0, NEXT, 1))
    return float(-stationary / stationary.sum() @ np.sum(NEXT * logs, axis=1))


def nll(tokens: list[str]) -> float:
    """Return minus the mean log-probability of the tokens after the first, in nats."""
    states = [STATES.index(token) for token in tokens]
    return float(-np.mean(np.log(NEXT[states[:-1], states[1:]])))


def text(count: int, seed: int, separator: str = "") -> str:
    """Draw lines of at least `count` tokens, ends of lines counted."""
    rng, words, state = np.random.default_rng(seed), [], 0
    while len(words) < count or state:
        state = rng.choice(len(STATES), p=NEXT[state])
        words.append(STATES[state])
    lines = " ".join(words).split(STATES[0])
    return "".join(separator.join(line.split()) + "\n" for line in lines[:-1])


def write(folder: pathlib.Path, train: int, rest: int, separator: str = "") -> str:
    """Write `train.txt`, `valid.txt` and `test.txt`; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (part, count) in enumerate({"train": train, "valid": rest, "test": rest}.items()):
        (folder / f"{part}.txt").write_text(text(count, seed, separator), encoding="utf-8")
    return str(folder)
