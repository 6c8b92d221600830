"""Pictures and tables of finished runs, and displays of running ones."""
