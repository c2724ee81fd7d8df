"""Compare the convergence of a result with the reference, and compute its score."""
