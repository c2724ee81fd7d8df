"""Shows results as a page, as Markdown for a pull request, and as CSV; shows a run on a terminal while it lasts."""
