"""The limits that clients and workers share: each bounds what one side may ask of the other."""

from __future__ import annotations

from typing import Final

#: Most texts in one job. ``embed()`` cuts longer inputs into several jobs; ``submit()`` refuses them.
MAX_JOB_TEXTS: Final = 65_536

#: Most bytes of UTF-8 in one job's texts. ``embed()`` cuts larger inputs; ``submit()`` refuses them.
MAX_JOB_BYTES: Final = 256 << 20

#: Most characters that ``embed()`` puts into one job. At 4 bytes a character they still fit MAX_JOB_BYTES.
MAX_WINDOW_CHARS: Final = MAX_JOB_BYTES // 4

#: Share of Redis's maxmemory that texts, vectors and expected vectors may take, by lane. Bulk work has the smaller
#: share, so interactive work still finds room. The rest is for workers to commit what they have begun, and for copies
#: of pages while Redis rewrites its append-only file.
MEMORY_SHARES: Final = {"interactive": 0.8, "bulk": 0.7}

#: Default of the tokens of one tenant that may wait in one lane: hours of work for a few cores.
MAX_QUEUED_TOKENS: Final = 100_000_000

#: Most texts in one chunk; bounds a chunk's reply whatever the model card says.
MAX_CHUNK_TEXTS: Final = 1_024

#: Most characters in one text. No model reads more than a few thousand tokens, so a longer text is rejected rather
#: than tokenized (a worker takes about a second for a megabyte of prose).
MAX_TEXT_CHARS: Final = 1_000_000

#: Most bytes of one packed chunk, uncompressed: twice a text of MAX_TEXT_CHARS 4-byte characters and its frame.
MAX_CHUNK_BYTES: Final = 16 << 20

#: Most bytes of one Celery message: a text of 1,000,000 characters, each 12 bytes in JSON, in base64, and its frame.
MAX_MESSAGE_BYTES: Final = 24 << 20

#: Most bytes of one packed reply: 1,024 vectors of 4,096 float32 and their frame.
MAX_REPLY_BYTES: Final = 32 << 20

#: Seconds of one core's work in a chunk for one or two child processes. An interactive request waits for at most one.
CHUNK_TARGET_S: Final = 0.25

#: The same for a bulk chunk of a large fleet, at most: see ``chunking.bulk_chunk_s``.
LONGEST_CHUNK_S: Final = 4.0

#: Doorbells in a lane's queue for each child process that serves it.
BELLS_A_CHILD: Final = 4

#: Most characters of a tenant's name.
MAX_TENANT_CHARS: Final = 64

#: Most tenants of a lane that a status names, those with the most waiting tokens first.
MAX_STATUS_TENANTS: Final = 100

#: Seconds that an unfinished job lives in Redis; its claims renew them.
UNFINISHED_TTL_S: Final = 7 * 86_400

#: Seconds that a worker's liveness key lives, and seconds between two renewals by its main process.
LIVENESS_TTL_S: Final = 10.0
LIVENESS_PERIOD_S: Final = 2.0

#: Observed crashes of a text that was embedded alone, after which it is rejected.
MAX_TEXT_CRASHES: Final = 3

#: Lost workers, killed child processes and attempts without a result, after which the text that was embedded alone is
#: rejected, or else the whole chunk.
MAX_LOSSES: Final = 10

#: Most dead letters in a namespace (a new one pushes the oldest out), and seconds that they live.
MAX_DEAD_LETTERS: Final = 10_000
DEAD_LETTER_TTL_S: Final = 30 * 86_400

#: Most bytes of UTF-8 of a text that a dead letter keeps. All letters together take at most 170 MB.
MAX_KEPT_TEXT_BYTES: Final = 16_384

#: Largest dimension that a model may have.
MAX_DIMENSION: Final = 65_536

#: Most models and child processes of one worker, and most bytes of the JSON of a worker entry or a model card.
MAX_WORKER_MODELS: Final = 128
MAX_WORKER_CHILDREN: Final = 65_536
MAX_ENTRY_BYTES: Final = 1 << 20

#: Most workers (those with the latest heartbeats), cards and lanes (the first ones) that a client reads.
MAX_WORKERS: Final = 4_096
MAX_CARDS: Final = 1_024
MAX_LANES: Final = 2_048

#: Most jobs that are read to list some of them.
MAX_LISTED_JOBS: Final = 50_000

#: Most lines of a status; each worker has a line for each of its models.
MAX_STATUS_WORKERS: Final = 4_096

#: Most characters in the detail of a rejected text.
MAX_DETAIL_CHARS: Final = 512
