"""Results as tables, plots, Markdown and HTML."""
