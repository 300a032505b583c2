"""Tasks whose answer is a number or an expression."""
