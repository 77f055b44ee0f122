"""The sizes that client and worker agree on. Each is a bound on what one side may ask of the other."""

from __future__ import annotations

from typing import Final

#: Texts in one job. ``embed()`` cuts longer inputs into several jobs, ``submit()`` refuses them.
MAX_JOB_TEXTS: Final = 65_536

#: Bytes of the texts in one job, in UTF-8. ``embed()`` cuts longer inputs, ``submit()`` refuses them.
MAX_JOB_BYTES: Final = 256 << 20

#: Characters that ``embed()`` puts into one job: never more than MAX_JOB_BYTES.
MAX_WINDOW_CHARS: Final = MAX_JOB_BYTES // 4

#: Share of Redis's maxmemory that texts, vectors and the vectors to come may take. Interactive work may still be
#: submitted when bulk has taken its share; the rest is for workers to write what they have begun, and for copies of
#: pages while the append-only file is rewritten.
MEMORY_SHARES: Final = {"interactive": 0.8, "bulk": 0.7}

#: Tokens that may wait in one lane unless the client is told otherwise: hours of work for a few cores.
MAX_QUEUED_TOKENS: Final = 100_000_000

#: Texts in one chunk; bounds the reply of a chunk whatever the model card says.
MAX_CHUNK_TEXTS: Final = 1_024

#: Characters in one text. No model reads more than a few thousand tokens; beyond this the text is
#: rejected rather than tokenized (a megabyte of prose takes a worker about a second).
MAX_TEXT_CHARS: Final = 1_000_000

#: Bytes of one packed chunk, uncompressed: a full text of 4-byte characters and its frame, twice over.
MAX_CHUNK_BYTES: Final = 16 << 20

#: Bytes of one Celery message: a text of 1,000,000 characters, each of 12 in JSON, in base64, and its frame.
MAX_MESSAGE_BYTES: Final = 24 << 20

#: Bytes of one packed reply: 1,024 vectors of 4,096 float32 and their frame.
MAX_REPLY_BYTES: Final = 32 << 20

#: Seconds of one core's work in a chunk. An interactive request waits for one bulk chunk at most.
CHUNK_TARGET_S: Final = 0.25

#: Chunks of one job that are in their Celery queue or under work at a time.
RING_WINDOW: Final = 64

#: Seconds an unfinished job lives; every commit renews it.
UNFINISHED_TTL_S: Final = 7 * 86_400

#: Seconds a worker's liveness key lives, and how often its main process renews it.
LIVENESS_TTL_S: Final = 10.0
LIVENESS_PERIOD_S: Final = 2.0

#: Observed crashes of one text alone after which it is rejected.
MAX_TEXT_CRASHES: Final = 3

#: Lost workers, killed children and tries without a result after which what they worked on is rejected: a text, if it
#: was alone, else a chunk.
MAX_LOSSES: Final = 10

#: Dead letters of a namespace, and seconds that they live. A newer one pushes the oldest out.
MAX_DEAD_LETTERS: Final = 10_000
DEAD_LETTER_TTL_S: Final = 30 * 86_400

#: Bytes of UTF-8 of a text that a dead letter may keep; so all letters together take 170 MB at most.
MAX_KEPT_TEXT_BYTES: Final = 16_384

#: Components of a vector that any model may have.
MAX_DIMENSION: Final = 65_536

#: Models of one worker, processes of one worker, and bytes of what it says of itself or of a model in JSON.
MAX_WORKER_MODELS: Final = 128
MAX_WORKER_CHILDREN: Final = 65_536
MAX_ENTRY_BYTES: Final = 1 << 20

#: Workers, cards and lanes that are looked at: those that beat last, and the first ones.
MAX_WORKERS: Final = 4_096
MAX_CARDS: Final = 1_024
MAX_LANES: Final = 2_048

#: Jobs that are looked at to list some of them.
MAX_LISTED_JOBS: Final = 50_000

#: Lines of a status: one a worker and model.
MAX_STATUS_WORKERS: Final = 4_096

#: Characters of what is said of a rejected text.
MAX_DETAIL_CHARS: Final = 512
