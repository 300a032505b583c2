"""`fulgurite best-of-n`: what choosing among n answers by a reward is worth, and training rows from what was chosen."""
