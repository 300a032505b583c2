"""What is optimised: labels, language modelling, preferences, rewards and the blend of specialists, each with its life in a run."""
