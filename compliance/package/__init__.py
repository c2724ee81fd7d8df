"""From runs to a submission: which runs count, what system they ran on, and the tree that holds them."""
