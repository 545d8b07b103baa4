"""``python -m medtune KEY=VALUE ...``; see ``python -m medtune --help``."""

import sys


def main() -> int:
    """Runs the command line; help needs nothing but the standard library."""
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        from medtune.config.help import show_help

        return show_help(arguments)
    if "--version" in arguments:
        from medtune import __version__

        sys.stdout.write(f"medtune {__version__}\n")
        return 0
    from medtune.launch.command import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
