"""The one exception whose message is written for the user."""


class UserError(ValueError):
    """A mistake in what the user gave: a file, a flag, a table, a shape.

    Its message is one sentence that says what is wrong and what to do. The
    experiments print it without a traceback and exit with status 1; any other
    exception is a defect of ours and keeps its traceback.
    """
