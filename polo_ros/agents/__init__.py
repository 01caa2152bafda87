"""The recipes: tasks, dynamics, planners and learners put together as the papers do."""
