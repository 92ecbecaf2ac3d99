"""What lies on a board outside of the agent's slots."""
