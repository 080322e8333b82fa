"""`python -m ingle` is the command `ingle`."""

from ingle.cli import main

if __name__ == "__main__":
    main()
