"""Lets ``python -m penstock_gateway`` do what ``penstock`` does."""

from penstock_gateway.cli import main

if __name__ == "__main__":
    main()
