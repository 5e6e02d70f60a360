"""Making images: sources that draw, optimise or keep them, views of them, and which of them the teacher vouches for."""
