"""The report's tables, free of markup: the page and the Markdown file both render them."""
