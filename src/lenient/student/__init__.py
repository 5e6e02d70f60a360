"""How the student learns from a batch."""
