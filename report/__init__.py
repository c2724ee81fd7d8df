"""Results as a page to look at, as Markdown for a pull request, and as a table."""
