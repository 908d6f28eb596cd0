"""The application: its commands, and the one place where errors become messages and exit codes."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nearhash import __version__
from nearhash.command_line.bench_server import bench_server
from nearhash.command_line.build import build
from nearhash.command_line.collections import collections
from nearhash.command_line.dedup import dedup
from nearhash.command_line.demo import demo
from nearhash.command_line.inspect import inspect
from nearhash.command_line.keys import keys
from nearhash.command_line.search import search
from nearhash.command_line.serve import serve
from nearhash.command_line.snapshot import snapshot
from nearhash.command_line.tune import tune
from nearhash.command_line.verify import repair, verify
from nearhash.command_line.warmup import warmup
from nearhash.errors import NearhashError

_SERVE_EXTRA = ("grpc", "grpc_health", "grpc_reflection", "google")


class Application(TyperGroup):
    """Turns the errors that a user can act on into one line on stderr and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of a pipe, such as `head`, has left; typer knows how to end quietly
            raise
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _SERVE_EXTRA:
                raise
            typer.echo(f"nearhash: {ctx.invoked_subcommand} needs {error.name}: pip install nearhash[serve]", err=True)
            raise typer.Exit(1) from error
        except (NearhashError, OSError, MemoryError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            typer.echo(f"nearhash: {message}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Application,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Nearest neighbours of vectors: build an index, search it, serve it. `nearhash demo` shows it at work.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nearhash {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (demo, build, search, tune, serve, dedup, inspect, verify, repair, warmup):
    app.command()(command)
app.command("bench-server")(bench_server)
app.add_typer(collections, name="collections")
app.add_typer(snapshot, name="snapshot")
app.add_typer(keys, name="keys")
