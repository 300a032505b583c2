"""Offsite tuning (CRaSh, arXiv 2310.15477): a smaller model made of some layers of a full one, and the way back into it."""
