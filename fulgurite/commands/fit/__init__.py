"""`fulgurite fit`, `validate`, `test` and `predict`: the trainer, checkpoints, the run folder's lock, and reports."""
