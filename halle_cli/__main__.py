"""`python -m halle_cli` and the `halle` script."""

from __future__ import annotations


def main() -> None:
    from halle_cli.app import app

    app()


if __name__ == "__main__":
    main()
