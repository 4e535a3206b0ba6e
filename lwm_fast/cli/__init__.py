"""The `lwm-fast` command. Exit codes: 0 done, 1 failed, 2 bad usage or input, 130 interrupted."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence

import click

from lwm_fast._version import __version__
from lwm_fast.errors import BackendUnavailableError, InputError

# name -> (module, one line of help); a command's module is imported when it is asked for.
_COMMANDS = {
    "env": "lwm_fast.cli.env",
    "inspect": "lwm_fast.cli.inspect",
    "convert": "lwm_fast.cli.convert",
    "embed": "lwm_fast.cli.embed",
    "pretrain": "lwm_fast.cli.pretrain",
    "finetune": "lwm_fast.cli.finetune",
    "evaluate": "lwm_fast.cli.evaluate",
    "challenge": "lwm_fast.cli.challenge",
    "figures": "lwm_fast.cli.figures",
    "demo": "lwm_fast.cli.demo",
    "synth": "lwm_fast.cli.synth",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[name]).command
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lwm-fast")
def cli() -> None:
    """Embed wireless channels with the Large Wireless Model (LWM), pre-train, fine-tune and evaluate it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code (the console script exits with it)."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("lwm_fast")
    before = (logger.level, warnings.showwarning)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
    try:
        result = cli.main(
            args=None if argv is None else list(argv), prog_name="lwm-fast", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except (InputError, BackendUnavailableError) as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except BrokenPipeError:  # `lwm-fast inspect x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("LWM_FAST_DEBUG"):
            raise
        click.echo(f"failed: {type(error).__name__}: {error} (LWM_FAST_DEBUG=1 shows where)", err=True)
        return 1
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        warnings.showwarning = before[1]
