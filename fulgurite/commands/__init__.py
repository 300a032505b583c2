"""Further verbs of the command line, one typed function per file; `fulgurite.cli.VERBS` names them."""
