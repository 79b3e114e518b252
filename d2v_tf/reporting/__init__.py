"""Pictures of a run: what it did, what it hides, what its features see."""
