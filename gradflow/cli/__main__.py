"""``python -m gradflow.cli``."""

from gradflow.cli import main

main()
