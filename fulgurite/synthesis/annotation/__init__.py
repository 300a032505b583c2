"""UltraFeedback's annotation: principles, ratings of four aspects, critiques with a score, pairs by each published rule."""
