"""Study of the repair loop on the playground: tasks and chains that are made, models before and after training on chains."""
