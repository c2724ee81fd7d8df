"""Files that are described by a manifest: checksums, comparison, progress."""
