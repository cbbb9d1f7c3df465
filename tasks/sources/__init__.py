"""Where images come from: one module a source, each with ``read(data: DataParams) -> Source``."""
