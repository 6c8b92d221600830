"""Speed and memory against other implementations; not packaged."""
