"""Runs test files under MicroPython: `micropython run_micropython.py [--data DIR] FILE...`.

Calls every `test_*` function of every file, in the order of their names. A file reads its data's directory, if it needs one, from
sys.argv: the two arguments `--data DIR` stay there. Prints a line a test, a closing count and the free heap; exits 1 on any failure.
"""

import gc
import sys


def run(path):
    folder, _, name = path.rpartition("/")
    sys.path.insert(0, folder or ".")
    passed = failed = 0
    try:
        module = __import__(name.rpartition(".")[0])
        names = sorted(n for n in dir(module) if n.startswith("test_"))
    except Exception as error:
        names = ()
        failed = 1
        print("FAIL", name)
        sys.print_exception(error, sys.stdout)
    for n in names:
        gc.collect()
        try:
            getattr(module, n)()
            passed += 1
            print("ok", n)
        except Exception as error:
            failed += 1
            print("FAIL", n)
            sys.print_exception(error, sys.stdout)
    sys.path.pop(0)
    return passed, failed


def main():
    files = sys.argv[1:]
    if files and files[0] == "--data":
        files = files[2:]
    passed = failed = 0
    for path in files:
        p, f = run(path)
        passed += p
        failed += f
    gc.collect()
    print(f"{passed} passed, {failed} failed, heap free {gc.mem_free()} of {gc.mem_free() + gc.mem_alloc()}")
    sys.exit(1 if failed or not passed else 0)


main()
