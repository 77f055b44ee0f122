"""Texts for measurements: drawn from a seed, so the same everywhere, with the lengths of real corpora. No I/O.

The words are everyday English and Indonesian ones, most of them one or two tokens long; lengths are log-normal, as
those of documents are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

WORDS: Final = """
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

#: Everyday words of nine more languages, in six scripts besides the Latin one.
FOREIGN_WORDS: Final = tuple(
    line.split()
    for line in """
    der Garten heute morgen Straße Bücher schön größer Wasser Freund gehen Brot Haus Stadt Wetter Frage
    café mañana niño corazón agua libro ciudad tiempo casa calle pregunta viaje noche camino mundo pueblo
    дом вода книга город сегодня завтра друг хлеб дорога время вопрос погода ночь утро работа язык
    σπίτι νερό βιβλίο πόλη σήμερα αύριο φίλος ψωμί δρόμος χρόνος ερώτηση καιρός νύχτα πρωί δουλειά γλώσσα
    بيت ماء كتاب مدينة اليوم غدا صديق خبز طريق وقت سؤال طقس ليل صباح عمل لغة
    घर पानी किताब शहर आज कल दोस्त रोटी सड़क समय सवाल मौसम रात सुबह काम भाषा
    房子 喝水 书本 城市 今天 明天 朋友 面包 道路 时间 问题 天气 夜晚 早上 工作 语言
    いえ みず 本屋 まち 今日 あした ともだち パン みち 時間 しつもん 天気 よる あさ しごと ことば
    집에 물을 책이 도시 오늘 내일 친구 빵을 길에 시간 질문 날씨 밤에 아침 일이 언어
    """.strip().splitlines()
)


def mixed(count: int, seed: int = 7) -> list[str]:
    """Return texts of log-normal lengths, 2 to 600 tokens, half of them under 30."""
    rng = _seeded(seed)
    return [_text(rng, min(500, max(1, round(rng.lognormvariate(3.1, 1.1))))) for _ in range(count)]


def short(count: int, seed: int = 8) -> list[str]:
    """Return texts of 3 to 14 words, like titles and queries."""
    rng = _seeded(seed)
    return [_text(rng, rng.randint(3, 14)) for _ in range(count)]


def long(count: int, seed: int = 9) -> list[str]:
    """Return texts of 150 to 500 words, like pages; most are longer than 256 tokens."""
    rng = _seeded(seed)
    return [_text(rng, rng.randint(150, 500)) for _ in range(count)]


def multilingual(count: int, seed: int = 10) -> list[str]:
    """Return texts of 1 to 60 words, each in one language, in seven scripts altogether."""
    rng = _seeded(seed)
    languages = (WORDS, *FOREIGN_WORDS)
    return [_text(rng, rng.randint(1, 60), rng.choice(languages)) for _ in range(count)]


def _seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  texts, not secrets


def _text(rng: random.Random, words: int, vocabulary: Sequence[str] = WORDS) -> str:
    return " ".join(rng.choice(vocabulary) for _ in range(words))


#: Name → function that returns texts, given a count and a seed.
CORPORA: Final[Mapping[str, Callable[..., list[str]]]] = {
    "mixed": mixed,
    "short": short,
    "long": long,
    "multilingual": multilingual,
}
