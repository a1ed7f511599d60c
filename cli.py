"""Run the commands from a checkout without installing: ``python cli.py train recipes/demo.yaml``."""

from wavevq.cli import main

if __name__ == "__main__":
    main()
