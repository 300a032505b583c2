"""`fulgurite emulate`: a smaller model made of some layers of a full one, on which these layers can be trained elsewhere."""
