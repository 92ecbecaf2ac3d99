"""Changes what decides who may do what (edge/zts/policy.py, edge/zts/grant.py) in every way that mutmut knows, under the tests that
run on a board too; prints each change that no test noticed, and the score. `make mutants` runs it.

mutmut finds sources below src/ only, so they are put there, in a folder of their own.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = ROOT / ".mutants"
MUTATED = ("policy", "grant")
LEAST = 0.9  # of all mutants must be noticed
CONFIG = f"""\
[mutmut]
source_paths=src
only_mutate=
    src/zts/{MUTATED[0]}.py
    src/zts/{MUTATED[1]}.py
pytest_add_cli_args_test_selection=tests
"""


def stage() -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(ROOT / "edge" / "zts", PLACE / "src" / "zts", ignore=shutil.ignore_patterns("__pycache__"))
    (PLACE / "tests").mkdir()
    for name in ("check", "policy_blob", *(f"test_{name}" for name in MUTATED)):
        shutil.copy(ROOT / "tests" / "shared" / f"{name}.py", PLACE / "tests")
    (PLACE / "setup.cfg").write_text(CONFIG)


def mutmut(*arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "mutmut"), *arguments]
    done = subprocess.run(command, cwd=PLACE, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-4000:]}{done.stderr[-4000:]}\nmutmut {arguments[0]} failed")
    return done.stdout


def main() -> None:
    stage()
    print("some minutes …", flush=True)
    mutmut("run", "--max-children", "2")
    mutmut("export-cicd-stats")
    figures = json.loads((PLACE / "mutants" / "mutmut-cicd-stats.json").read_text())
    for line in mutmut("results").splitlines():
        name, _, verdict = line.strip().partition(": ")
        if verdict:
            print(f"== {verdict}: {name}\n{mutmut('show', name)}")
    noticed = figures["killed"] + figures["timeout"]
    print(f"{noticed} of {figures['total']} mutants noticed: {100 * noticed / figures['total']:.1f} %")
    if noticed < LEAST * figures["total"]:
        sys.exit(f"fewer than {LEAST:.0%}")


if __name__ == "__main__":
    main()
