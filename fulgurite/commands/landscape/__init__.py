"""`fulgurite landscape`: the loss along the line or over the plane between models."""
