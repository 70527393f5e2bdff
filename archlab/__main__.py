"""`python -m archlab` is the command `archlab`, as torchrun starts it."""

from archlab.cli.main import main

if __name__ == "__main__":
    main()
