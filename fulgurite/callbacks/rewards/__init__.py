"""Callbacks that follow rewards over a run: of preferences, and of reinforcement learning."""
