"""`fulgurite repair`: programs mended in turns by a learner, a teacher and what running them says."""
