"""Real data: found or downloaded, verified, decoded; and tables of this project."""
