"""Training at full size, each trainer a `ground_truth.task.Task`."""
