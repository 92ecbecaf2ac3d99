"""`python tests/fuzz/run.py TARGET SECONDS [FOLDER]`: fuzzes one target with atheris. What it finds new stays in FOLDER/TARGET; an
input that breaks the target's promise is written to FOLDER/crash-TARGET-…, and the exit code is not 0."""

import importlib
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

TESTS = Path(__file__).parent.parent
MAX_BYTES = 4096


def main() -> None:
    name, seconds, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    # Not sys.path[0]: the files beside this one are found as fuzz.NAME only.
    sys.path[:1] = [str(TESTS), str(TESTS / "shared")]
    with atheris.instrument_imports(include=["zts", "zts_agent", "zts_gateway", "zts_relay"]):
        target = importlib.import_module(f"fuzz.{name}")
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.SEEDS):
        (corpus / f"seed{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        "-timeout=20",
        f"-artifact_prefix={folder}/crash-{name}-",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], target.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
