"""Judge whether a result is valid. Checks return findings as values; only `__main__` prints. Imports without torch."""
