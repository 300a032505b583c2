"""`fulgurite scaling`: pass rates of a series of models, the law over their sizes, and whether it holds."""
