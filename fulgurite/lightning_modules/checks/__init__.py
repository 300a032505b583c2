"""Checks before and while a module trains: task and classes, hyperparameters, a checkpoint's keys, first weights, finite losses."""
