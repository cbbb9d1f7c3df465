"""The last stage: one page, one Markdown file and one table of all settings in force."""
