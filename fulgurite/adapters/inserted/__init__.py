"""Modules put into a network beside its layers: bottlenecks behind sublayers and soft prompts before the input."""
