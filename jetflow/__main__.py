"""``python -m jetflow`` is the same as ``jetflow``."""

from jetflow.cli.main import main

if __name__ == "__main__":
    main()
