"""What a row becomes: conversations, preferences, labelled examples, and the findings about rows that did not."""
