"""`python -m qqmem`."""

from qqmem.cli import main

main()
