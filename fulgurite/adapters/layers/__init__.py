"""What an adapted layer is made of: its replaced class, its branches, and which layers are chosen."""
