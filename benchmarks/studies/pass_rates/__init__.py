"""Studies of pass rates over sizes: the statistics by simulation and replay, and a series of models."""
