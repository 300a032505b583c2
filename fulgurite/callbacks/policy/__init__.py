"""What reports of reinforcement learning show."""
