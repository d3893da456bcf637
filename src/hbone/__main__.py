"""Entry point. Keep this module's imports to what `hbone --help` needs."""

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if len(sys.argv) == 2 and sys.argv[1] in {"--version", "-V"}:  # 15 ms, without click
        from hbone import __version__, native

        sys.stdout.write(f"hbone {__version__}{native.remark()}\n")
        return
    # What is imported stays: the default, a look at it after every 700 objects, is a tenth of a node's start. A process
    # that runs on sets its own (`hbone.app.run`).
    gc.set_threshold(50_000, 50, 50)
    try:
        from hbone.cli.failures import main as run
    except KeyboardInterrupt:  # Ctrl-C while Python was still importing
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
