"""Programs: parse, build, call, save."""

import os
import sys

from scripts._interrupt import leave_at_ctrl_c

# The first import of a program, and those behind it take time: until ``run`` catches what they
# raise, Ctrl-C would be a traceback, and so would a package that is missing.
program = getattr(sys.modules["__main__"], "__file__", None)
if program and os.path.realpath(program).startswith(__path__[0]):
    leave_at_ctrl_c()
    from scripts._cli import told_at_import

    sys.excepthook = told_at_import
