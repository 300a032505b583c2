"""What a policy drew: answers with their rewards, who gets credit for them, and the packs of trees that are trained on."""
