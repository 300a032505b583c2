"""Several processes train one model, and end together."""
