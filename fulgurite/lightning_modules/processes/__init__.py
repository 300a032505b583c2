"""Several processes train one model: they end together, and a base that is too large for one of them is cut into shards."""
