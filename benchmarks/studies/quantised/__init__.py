"""Measurements of training beside quantised bases."""
