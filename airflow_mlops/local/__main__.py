"""``python -m airflow_mlops.local``."""

import argparse
import shlex
import sys
from pathlib import Path

from airflow_mlops.core.errors import MlopsError
from airflow_mlops.local.stack import Stack


def main() -> int:
    """Run one command; exit code 1 if a component does not run."""
    parser = argparse.ArgumentParser(prog="python -m airflow_mlops.local", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status", "env"))
    parser.add_argument(
        "--dags", type=Path, help="folder of Dag files; else that of the last start"
    )
    parser.add_argument("--home", type=Path, default=Path(".local"), help="folder of the stack")
    args = parser.parse_args()
    try:
        return _run(args.command, Stack(args.home, args.dags))
    except MlopsError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _run(command: str, stack: Stack) -> int:
    if command == "up":
        stack.up(print)
        passwords = stack.settings.passwords
        print("sign in as " + ", ".join(f"{u} / {p}" for u, p in passwords.items()))
        command = f"{shlex.quote(sys.executable)} -m airflow_mlops.local env --home {stack.home}"
        print(f'for `airflow` in a shell: eval "$({command})"')
    elif command == "down":
        stack.down()
    elif command == "status":
        found = stack.status()
        print(*found, sep="\n")
        return int(any(component.state != "up" for component in found))
    else:
        print(*(f"export {k}={shlex.quote(v)}" for k, v in stack.env().items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
