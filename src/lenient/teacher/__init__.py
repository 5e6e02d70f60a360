"""The frozen teacher, and what it says of a batch."""
