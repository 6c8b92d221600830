"""The version of the package, in a file of its own that every room may read."""

VERSION = "0.3.0"
