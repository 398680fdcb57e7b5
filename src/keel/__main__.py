"""`python -m keel`: the same as `keel`."""

from keel.cli import main

if __name__ == "__main__":
    main()
