"""A text as the batches of truncated backpropagation through time."""

from typing import Any, NamedTuple

import numpy as np

from spd_jax.errors import UserError

SHORTEST, LONGEST = 5, 55  # Merity et al. (2018), section 5, as Luo et al. clip it


class Batches(NamedTuple):
    """Sequences in order, so that the state can run on from one to the next.

    S sequences of T steps in B rows; row b of a sequence continues row b of the one before.

    Attributes:
      inputs: int32 `[S, T, B]`.
      targets: int32 `[S, T, B]`, the tokens that follow.
      counted: float32 `[S, T]`, 0 for padding.
    """

    inputs: Any
    targets: Any
    counted: Any


def _rows(tokens: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into rows; return inputs and targets `[n, B]`."""
    steps = (len(tokens) - 1) // rows
    if steps < 1:
        raise UserError(
            f"a text of {len(tokens)} tokens is too short for {rows} rows: give a longer one"
        )
    count = steps * rows
    return tokens[:count].reshape(rows, steps).T, tokens[1 : count + 1].reshape(rows, steps).T


def _cut(tokens: np.ndarray, rows: int, lengths: list[int], width: int, count: int) -> Batches:
    """Put sequences of the given lengths into arrays of `count` sequences of `width` steps."""
    inputs, targets = _rows(tokens, rows)
    shape = (count, width, rows)
    result = Batches(
        np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape[:2], np.float32)
    )
    start = 0
    for place, length in enumerate(lengths):
        part = slice(start, start + length)
        result.inputs[place, :length] = inputs[part]
        result.targets[place, :length] = targets[part]
        result.counted[place, :length] = 1
        start += length
    return result


def eval_batches(tokens: np.ndarray, rows: int, length: int) -> Batches:
    """Return a whole text in sequences of one length, the last one padded.

    Args:
      tokens: int32 `[n]`.
      rows: B, the number of rows that the text is cut into.
      length: T, steps of a sequence.

    Raises:
      UserError: the text does not fill the rows.
    """
    steps = (len(tokens) - 1) // rows
    lengths = [min(length, steps - start) for start in range(0, steps, length)]
    return _cut(tokens, rows, lengths, length, len(lengths))


def epoch_batches(tokens: np.ndarray, rows: int, length: int, seed: list[int] | None) -> Batches:
    """Return one training epoch; arguments and errors as `eval_batches`, but for two.

    `length` is the mean length of the sequences where `seed` draws them, which are then padded so
    that every epoch has the same shape; a seed of `None` keeps all equal and drops the remainder.
    """
    steps = (len(tokens) - 1) // rows
    if seed is None:
        count = max(steps // length, 1)
        return _cut(tokens, rows, [min(length, steps)] * count, min(length, steps), count)
    generator = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < steps:
        base = length if generator.random() < 0.95 else length / 2
        drawn = int(np.clip(generator.normal(base, 5), SHORTEST, LONGEST))
        lengths.append(min(drawn, steps - sum(lengths)))
    # Lengths of mean 0.975 * length: a tenth more sequences than that is never reached by chance.
    most = max(int(1.1 * steps / (0.97 * min(length, LONGEST))) + 10, len(lengths))
    return _cut(tokens, rows, lengths, max(LONGEST, length), most)
