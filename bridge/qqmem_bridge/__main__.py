"""`python -m qqmem_bridge`."""

from qqmem_bridge.cli import main

main()
