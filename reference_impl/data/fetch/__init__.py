"""Downloads from a server or a folder; each file arrives whole and as listed."""
