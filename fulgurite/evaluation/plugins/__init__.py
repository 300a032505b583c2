"""Our models, adapters included, in other people's harnesses."""
