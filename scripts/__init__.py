"""Programs: parse, build, call, save."""

import sys

from scripts._interrupt import leave_at_ctrl_c

# The first import of a program, and those behind it take time: until then Ctrl-C is a traceback.
if getattr(sys.modules["__main__"], "__file__", "").startswith(__path__[0]):
    leave_at_ctrl_c()
