"""Runs that measure what a method learns: accuracy, trends and intervals over seeds."""
