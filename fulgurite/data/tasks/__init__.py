"""Tasks with labels and metrics: GLUE and the tasks of the parameter-efficient tuning papers."""
