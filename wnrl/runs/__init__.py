"""The run stack: folder, files, checkpoint, session and resume, knowing neither agents nor VAEs."""

from wnrl.arguments import guard
from wnrl.runs.events import EventFile
from wnrl.runs.files import (
    as_usage_error,
    file_checksum,
    read_json,
    read_or_nothing,
    read_values,
    whole_file,
    write_bytes,
    write_json,
    write_text,
    write_values,
)
from wnrl.runs.folder import (
    CHECKPOINT,
    CONFIG,
    RESULT,
    VERSIONS,
    Run,
    as_before,
    check_run_folder,
    checked_file,
    is_finished,
    locked,
    make_folder,
    open_run,
    plain_json,
    read_config,
    read_result,
    reading,
)
from wnrl.runs.machine import free_memory, resolve_device, seed_everything, versions
from wnrl.runs.session import (
    Batch,
    Batching,
    Interrupts,
    Meaning,
    Member,
    Options,
    Stopped,
    Work,
    carry_out,
    carry_out_batch,
)  # fmt: skip

__all__ = [
    "CHECKPOINT", "CONFIG", "RESULT", "VERSIONS", "Batch", "Batching", "EventFile", "Interrupts",
    "Meaning", "Member", "Options", "Run", "Stopped", "Work", "as_before", "as_usage_error",
    "carry_out", "carry_out_batch", "check_run_folder", "checked_file", "file_checksum",
    "free_memory", "is_finished", "locked", "make_folder", "open_run", "plain_json",
    "read_config", "read_json", "read_or_nothing", "read_result", "read_values", "reading",
    "resolve_device", "seed_everything", "versions", "whole_file", "write_bytes", "write_json",
    "write_text", "write_values",
]  # fmt: skip

guard(globals(), __all__)
