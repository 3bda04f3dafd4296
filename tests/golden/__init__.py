"""Golden tests: numbers of the official code and of the literature."""
