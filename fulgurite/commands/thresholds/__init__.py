"""`fulgurite thresholds`: how many tunable parameters a task takes, by a sweep over budgets and seeds."""
