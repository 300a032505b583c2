"""Tasks whose answer is a short text that is compared with the right ones."""
