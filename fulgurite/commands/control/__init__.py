"""`fulgurite control`: how well a model follows the scores that it is asked for."""
