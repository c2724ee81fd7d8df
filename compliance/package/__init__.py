"""Make a submission of runs: choose the runs, describe their system, and write the tree that holds them."""
