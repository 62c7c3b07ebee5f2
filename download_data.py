"""Make, fetch or prepare the data of a track; see `python download_data.py --help`."""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from acdc import tracks
from acdc.errors import KitError


def main(arguments: list[str]) -> int:
    """Run the command line; give the exit code back."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--track", help=f"one of {', '.join(tracks.TRACKS)}")
    chosen = first.parse_known_args(arguments)[0].track
    try:
        kit = Path(__file__).resolve().parent
        name = tracks.choose_name(kit, {"RAMP_TRACK": chosen} if chosen else os.environ)
        prepare = import_module(f"acdc.tracks.{name}.prepare")
        parser = argparse.ArgumentParser(
            prog="download_data.py",
            description=f"Make, fetch or prepare the data of the track {name}.",
            epilog=prepare.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[first],
        )
        parser.add_argument("--out", type=Path, default=Path("data"), help="default: data")
        parser.add_argument(
            "--private", type=Path, metavar="DIR", help="hidden data: secret seed, shuffled, in DIR"
        )
        parser.add_argument("--reuse", action="store_true", help="keep data that is there")
        parser.add_argument("--force", action="store_true", help="replace data that is there")
        parser.add_argument("--quiet", dest="progress", action="store_false", help="no bars")
        prepare.add_arguments(parser)
        options = parser.parse_args(arguments)
        options.arguments, options.kit = arguments, kit
        prepare.run(options)
    except (KitError, OSError) as error:
        print(f"download_data.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("download_data.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
