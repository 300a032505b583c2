"""What is checked before and while a module trains: classes, hyperparameters, first weights, finite losses."""
