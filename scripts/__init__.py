"""Programs: parse, build, call, save."""

import os
import sys

from scripts._interrupt import leave_at_ctrl_c

# The first import of a program, and those behind it take time: until ``run`` catches what they
# raise, Ctrl-C would be a traceback. So would a package that is missing, whenever it is missed.
program = getattr(sys.modules["__main__"], "__file__", None)
if program and os.path.realpath(program).startswith(__path__[0]):
    leave_at_ctrl_c()
    from scripts._cli import excepthook

    sys.excepthook = excepthook
