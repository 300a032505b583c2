"""What several commands use: the parser, checkpoints by name, devices, files that appear whole."""
