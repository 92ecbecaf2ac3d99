"""What is asked of a person: a secret, unseen, or yes or no. A program answers by a file, or by an option."""

import getpass
import sys

from zts_gateway.ui import Exit, Failure

_LINE_MAX = 4096  # characters of a line; the longest that ZTS makes is about 470


def read_secret(file: str | None, prompt: str, option: str, what: str) -> str:
    """A code, a line, a passphrase: from a file, from stdin (-), or typed unseen. Never from the command line, which others can read.

    `option` is what names the file, such as --code-file.
    """
    if file is None:
        if not sys.stdin.isatty():
            raise Failure(Exit.USAGE, f"there is no terminal to ask for {what}; give it with {option} FILE, or {option} - for stdin")
        return getpass.getpass(prompt)
    if file == "-":
        return sys.stdin.readline(_LINE_MAX)
    try:
        with open(file) as opened:
            return opened.readline(_LINE_MAX)
    except OSError as error:
        raise Failure(Exit.USAGE, f"cannot read {file} ({error.strerror}); give {option} a file that holds {what}") from None
    except UnicodeDecodeError:
        raise Failure(Exit.USAGE, f"{file} is no text; give {option} a file that holds {what}") from None


def confirm(question: str, yes: bool) -> bool:
    """Whether the answer is yes; `yes` says that it was given already."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise Failure(Exit.USAGE, "there is no terminal to ask at whether you are sure; say so with --yes")
    return ask(f"{question} [y/N] ")


def ask(question: str, default: bool = False) -> bool:
    """At the terminal."""
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        raise EOFError
    return answer.strip().lower() in ("y", "yes") if answer.strip() else default
