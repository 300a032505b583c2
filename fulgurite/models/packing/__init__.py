"""Attention over packed rows and trees, for each architecture that is known or proved."""
