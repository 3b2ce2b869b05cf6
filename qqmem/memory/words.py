"""Text to the words by which it is found: Chinese is cut by jieba, everything else at what is no letter or digit."""

from __future__ import annotations

import math
import re
import threading
import unicodedata
from functools import cache
from typing import Any

_WORD = re.compile(r"[^\W_]+")

# Words that nearly every sentence has. Longer ones are rare enough for their weight to tell.
_FUNCTION_WORDS = frozenset(
    "的了是在我你他她它们这那有和与也都就不没吗呢吧啊呀哦嗯哈么之而且或但被把给让从到对向为以于个很太还又再才只着过得地会能要去来说上下里中"
    "aisu"
)

# In nats: a word seen once in that corpus of 60 million, and a letter or digit of a word that is not Chinese.
RARE = 17.0
_LETTER = 2.3


class Segmenter:
    """Cuts text into words. The dictionary (some 0.7 s) is loaded at the process's first use: call it in a thread."""

    def words(self, text: str) -> list[str]:
        """The words in their order, lower-cased, letters and digits only, overlapping where a word has words inside."""
        cut = _dictionary().cut_for_search(unicodedata.normalize("NFKC", text).casefold())
        found = (word for piece in cut for word in _WORD.findall(piece))
        return [word for word in found if word not in _FUNCTION_WORDS]

    def weight(self, word: str) -> float:
        """How much a word tells, in nats: -log of its share of jieba's corpus; of other words, by their letters."""
        tokenizer = _dictionary()
        if num := tokenizer.FREQ.get(word, 0):
            return math.log(tokenizer.total / num)
        return min(RARE, _LETTER * len(word)) if word.isascii() else RARE


_LOADING = threading.Lock()


def _dictionary() -> Any:
    with _LOADING:  # two threads would each load it
        return _load()


@cache
def _load() -> Any:
    # Here and not above: it takes a quarter of a second, on the thread that needs it.
    import jieba

    tokenizer = jieba.Tokenizer()
    # What `initialize` does, without its cache in a folder that any user may write to, and without its log.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
