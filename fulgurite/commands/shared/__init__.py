"""What several commands use: the parser, checkpoints by name, devices, rows as lines of JSON."""
