"""Files from a server or a folder, whole and as they were listed."""
