"""The one loop, its settings, and what it watches: health, the student to deliver."""
