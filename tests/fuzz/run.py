"""Fuzz one reader with atheris, guided by coverage: ``python tests/fuzz/run.py reply -max_total_time=60``.

Without a name: each reader in turn, in a process of its own. What crashes, hangs or eats memory ends the run with an
error and leaves its bytes beside this file, in ``crash-…``.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["embedmill", "embedmill_worker", "fuzz"]):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from fuzz.decoders import DECODERS

#: Megabytes that a reader's process may take, and seconds that one input may take.
BOUNDS = ("-rss_limit_mb=2048", "-malloc_limit_mb=512", "-timeout=20")


def fuzz(name: str, options: list[str]) -> None:
    decoder = DECODERS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for i, seed in enumerate(decoder.seeds):
            (Path(corpus) / f"seed-{i}").write_bytes(seed)
        longest = max(4_096, *(2 * len(seed) for seed in decoder.seeds))
        crashes = f"-artifact_prefix={Path(__file__).parent}/{name}-"
        atheris.Setup([sys.argv[0], *BOUNDS, f"-max_len={longest}", crashes, *options, corpus], decoder)
        atheris.Fuzz()


def main() -> int:
    names = [name for name in sys.argv[1:] if not name.startswith("-")]
    options = [option for option in sys.argv[1:] if option.startswith("-")]
    if len(names) == 1:
        fuzz(names[0], options)
        return 0
    failed = []
    for name in names or sorted(DECODERS):
        done = subprocess.run([sys.executable, __file__, name, *options], check=False, capture_output=True, text=True)
        last = [line for line in done.stderr.splitlines() if line.startswith(("Done", "stat::", "==", "SUMMARY"))]
        print(f"{name}: {last[-1] if last else done.stderr[-400:]}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stderr[-3_000:], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
