"""The run store: results on disk, found again by what made them.

1. A run is a result folder below the store's root, named by a hash over analysis, model
   fingerprint, parameters and seed. Beside the result it holds `run.json`: its title, its tags, and
   the requests that it answers. Folders are the truth.
2. A folder is written under a temporary name and renamed into place; whoever replaces one holds the
   store's lock for the moment in which the old one is moved aside. A writer that is killed then
   leaves the old one aside, from where the next reader puts it back.
3. `index.sqlite` beside the folders is what a list is read from. Each row has the mark of the
   folder that it was read from; each question first compares these marks with the folders and reads
   again what differs. So an index that is missing, damaged, older, or out of step mends itself.
4. A request is a hash over the kind of result, the model, what is asked, the versions and the code
   that answers: an equal one is answered from the store. `answer` makes the request of a call.

The root is the folder named by the environment variable WORKBENCH_RUNS, or `workbench/runs` in the
user's data folder. A folder that is copied there, from another store or out of an exported ZIP, is
a run of it.

Limits: nothing is forced onto the disk, so a power cut, unlike a killed process, may cost the last
seconds. A file that is changed in place to the same length within the clock's tick is not noticed
before `rebuild`.
"""

from __future__ import annotations

from workbench.core.runs.answering import Answer, answer, ask
from workbench.core.runs.folders import Run, RunStoreError
from workbench.core.runs.identity import id_of, request_key, run_id
from workbench.core.runs.spare import spare_allowed
from workbench.core.runs.store import RunStore, default_root

__all__ = [
    "Answer",
    "Run",
    "RunStore",
    "RunStoreError",
    "answer",
    "ask",
    "default_root",
    "id_of",
    "request_key",
    "run_id",
    "spare_allowed",
]
