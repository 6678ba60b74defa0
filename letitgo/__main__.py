"""``python -m letitgo`` is ``letitgo``."""

from letitgo.cli.main import main

if __name__ == "__main__":
    main()
