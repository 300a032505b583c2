"""`fulgurite synthesize`: data made by models, step by step, as a recipe says."""
