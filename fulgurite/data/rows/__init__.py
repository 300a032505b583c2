"""Tokenised rows: the store on disk, the packed form, collation into batches, the report on lengths."""
