"""Entry point. Keep this module's imports to what `hbone --help` needs."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if len(sys.argv) == 2 and sys.argv[1] in {"--version", "-V"}:  # 15 ms, without click
        from hbone import __version__

        sys.stdout.write(f"hbone {__version__}\n")
        return
    try:
        from hbone.cli.failures import main as run
    except KeyboardInterrupt:  # Ctrl-C while Python was still importing
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
