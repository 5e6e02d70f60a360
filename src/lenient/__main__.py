"""`python -m lenient` and the command `lenient`."""

from lenient.cli import main

if __name__ == "__main__":
    main()
