"""Making images: sources that draw them, views of them, and the supply that deals accepted ones out."""
