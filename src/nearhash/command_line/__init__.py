"""The command line: thin commands over the library. Needs the ``[cli]`` extra (typer and rich)."""

import sys


def main() -> None:
    """Run the ``nearhash`` command. Exits with 0, with 1 after a failure, with 2 after wrong arguments."""
    try:
        from nearhash.command_line.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f"nearhash: the command line needs {error.name}: pip install nearhash[cli]", file=sys.stderr)
        sys.exit(2)
    app(prog_name="nearhash")
