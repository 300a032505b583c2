"""What a run tells its loggers beside the metrics that modules log themselves."""
