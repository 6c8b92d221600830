"""The one exception whose message is written for the user."""

from collections.abc import Collection


class UserError(ValueError):
    """A mistake in what the user gave: a file, a flag, a table, a shape.

    Its message is one sentence that says what is wrong and what to do. The
    experiments print it without a traceback and exit with status 1; any other
    exception is a defect of ours and keeps its traceback.
    """

    def __init__(self, sentence: str) -> None:
        """Keep the sentence on one line, whatever it quotes of what the user gave."""
        super().__init__(" ".join(sentence.splitlines()))


def check_name(what: str, name: str, names: Collection[str]) -> None:
    """Refuse a name that is none of `names`.

    Args:
      what: it is the name of, such as "data set".
      name: as it was given.
      names: all there are.

    Raises:
      UserError: there is no such name; the sentence lists those there are.
    """
    if not isinstance(name, str) or name not in names:
        raise UserError(f"unknown {what} {name!r}: use one of {', '.join(names)}")
