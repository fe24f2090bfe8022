"""The run stack: folder, files, checkpoint, session and resume, knowing neither agents nor VAEs."""

from wnrl.arguments import guard
from wnrl.runs.events import EventFile as EventFile
from wnrl.runs.files import read_json as read_json
from wnrl.runs.files import read_or_nothing as read_or_nothing
from wnrl.runs.files import whole_file as whole_file
from wnrl.runs.files import write_arrays as write_arrays
from wnrl.runs.files import write_bytes as write_bytes
from wnrl.runs.files import write_json as write_json
from wnrl.runs.files import write_text as write_text
from wnrl.runs.folder import CONFIG as CONFIG
from wnrl.runs.folder import RESULT as RESULT
from wnrl.runs.folder import VERSIONS as VERSIONS
from wnrl.runs.folder import Run as Run
from wnrl.runs.folder import checked_file as checked_file
from wnrl.runs.folder import is_finished as is_finished
from wnrl.runs.folder import locked as locked
from wnrl.runs.folder import open_run as open_run
from wnrl.runs.folder import read_config as read_config
from wnrl.runs.folder import read_result as read_result
from wnrl.runs.folder import reading as reading
from wnrl.runs.machine import resolve_device as resolve_device
from wnrl.runs.machine import seed_everything as seed_everything
from wnrl.runs.session import Batch as Batch
from wnrl.runs.session import Batching as Batching
from wnrl.runs.session import Interrupts as Interrupts
from wnrl.runs.session import Meaning as Meaning
from wnrl.runs.session import Member as Member
from wnrl.runs.session import Options as Options
from wnrl.runs.session import Stopped as Stopped
from wnrl.runs.session import Work as Work
from wnrl.runs.session import carry_out as carry_out
from wnrl.runs.session import carry_out_batch as carry_out_batch

__all__ = guard(globals())
