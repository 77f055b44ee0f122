"""Texts for measurements: seeded, the same everywhere, of the lengths that real corpora have.

Words are everyday English and Indonesian ones, most of them a token or two; lengths are log-normal, as lengths of
documents are. Nothing of embedmill is imported here.
"""

from __future__ import annotations

import random

WORDS = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but
not what all were we when your can said there use an each which she do how their if will up other about out
many then them these so some her would make like him into time has look two more write go see number no way
could people my than first water been call who oil its now find long down day did get come made may part over
new sound take only little work know place year live me back give most very after thing our just name good
sentence man think say great where help through much before line right too mean old any same tell boy follow
came want show also around form three small set put end does another well large must big even such because
turn here why ask went men read need land different home us move try kind hand picture again change off play
spell air away animal house point page yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya
ke karena tersebut bisa ada mereka lebih kata tahun sudah atau saat oleh menjadi orang ia telah adalah seperti
sebagai bahwa dapat para harus namun kita dua satu masih hari hanya mengatakan kepada kami setelah melakukan
lalu belum lain dia kalau terjadi banyak menurut anda hingga tak baru beberapa ketika saja jalan sekitar
secara dilakukan sementara tapi sangat hal sehingga seorang bagi besar lagi selama antara waktu sebuah jika
sampai jadi terhadap tiga serta pun salah merupakan atas sejak membuat
""".split()  # noqa: SIM905  a list of 300 literals would be 300 lines


def mixed(count: int, seed: int = 7) -> list[str]:
    """Give texts of log-normal lengths, 2 to 600 tokens, half of them under 30."""
    rng = random.Random(seed)
    return [_text(rng, min(500, max(1, round(rng.lognormvariate(3.1, 1.1))))) for _ in range(count)]


def short(count: int, seed: int = 8) -> list[str]:
    """Give texts of 3 to 14 words, as titles and queries are."""
    rng = random.Random(seed)
    return [_text(rng, rng.randint(3, 14)) for _ in range(count)]


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))
