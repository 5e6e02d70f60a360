"""One run, from a request to its files."""
