"""APET: trained scalars at any positions of a network, how they are chosen, stored, loaded and exported."""
