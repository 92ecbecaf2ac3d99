"""Nothing. A copy of this module, imported anew for each, is the `__main__` of programs that the service repl runs."""
