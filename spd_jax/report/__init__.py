"""Pictures and tables out of a finished run. matplotlib is imported here alone."""
