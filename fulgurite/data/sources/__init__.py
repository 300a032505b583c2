"""Where rows lie and in which format: hub or file, plain or gzipped, json, jsonl, csv, parquet."""
