"""Linear layers and embeddings of which few scalars are trained (APET): gradients at positions, live writes, the plan."""
