"""Is it a valid result? Values out: checks return findings, and only `__main__` prints. Imports without torch."""
