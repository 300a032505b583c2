"""What a validation or test measures: one interface (measures.py), and the metrics of each objective."""
