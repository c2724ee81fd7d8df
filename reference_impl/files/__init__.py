"""Files that a manifest describes: checksums, comparison, progress."""
