"""The command line: thin commands over the library. Needs the ``[cli]`` extra (typer and rich)."""

import sys


def main() -> None:
    """Run the ``nearhash`` command. Exits with 0, with 1 after a failure, with 2 after wrong arguments."""
    try:
        from nearhash.command_line.app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        print(f"nearhash: the command line needs {missing}: pip install nearhash[cli]", file=sys.stderr)
        sys.exit(2)
    app(prog_name="nearhash")
