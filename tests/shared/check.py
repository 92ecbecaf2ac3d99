"""What shared tests need of a test library; they run on MicroPython, where there is none."""


def raises(kind, call, *args):
    """The error of `kind` that call(*args) raises."""
    try:
        call(*args)
    except kind as error:
        return error
    raise AssertionError(f"{call} did not raise {kind.__name__}")
