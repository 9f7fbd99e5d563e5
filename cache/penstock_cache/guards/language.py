"""In which language a prompt is written: a vote of its script, then of its function words.

Owns the lists of function words of the languages that prompts come in most often. A hint, not a detector: a text
that gives no vote has no language, and two languages differ only when both are known. Read `language_of` first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from penstock_cache.guards.tokens import FOREIGN, STOP, Token, listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

_ENGLISH = """
a about above after again against ain't all also am an and any anybody anyone anything are aren't as at be because
been before being below between both but by can can't cannot could couldn't did didn't do does doesn't doing don't
down during each either else ever every everybody everyone everything few for from further gonna got had hadn't has
hasn't have haven't having he he'd he'll he's her here here's hers herself hey hello hi him himself his how how's i
i'd i'll i'm i've if in into is isn't it it'd it'll it's its itself just kindly let let's like lot lots many may me
might mine more most much must mustn't my myself need no nor not of off ok okay on once one ones only onto or other
our ours ourselves out over own per please pls plz quite rather really regarding same shall shan't she she'd she'll
she's should shouldn't so some somebody someone something still such than thank thanks that that's the their theirs
them themselves then there there's these they they'd they'll they're they've thing things this those though through
thx to too towards u under until up upon ur us used very via wanna want was wasn't way we we'd we'll we're we've well
were weren't what what's whatever when when's where where's whether which while who who's whom whose why why's will
with within without won't would wouldn't ya yes yet you you'd you'll you're you've your yours yourself dont doesnt
didnt cant wont isnt arent wasnt im ive whats hows wheres whos thats lets id theres couldnt shouldnt wouldnt havent
hasnt gotta tell know give help figure mean exactly actually basically simply possible able best anyways anyway hello
yo hmm um uh maybe perhaps currently right good
"""
ENGLISH_STOPWORDS = frozenset(listed(_ENGLISH))

# Only words that are not English words as well; a word of several of these languages votes for each.
_FUNCTION_WORDS = """
de der das und ist nicht ich wie ein eine einen mit für auf den dem von zu wir sie kann ich mein meine wenn oder
de auch wo warum bitte gibt sind wird im zum zur einem einer
fr le les et est pas je comment une dans pour sur avec que qui quoi mon ma mes vous nous sont ou où pourquoi quel
fr quelle quels du des au aux peux puis faire c'est j'ai l'
es el los las y es no_ cómo como una en para con por qué que quién dónde cuál cuáles mi mis son_ está puedo hacer
es del al se su más hay cuando
it il lo gli e è non come una di per con che chi dove perché mio mia sono posso del della nel quale quali si più
it fare ho
pt o os e é não como uma em para com por que quem onde qual quais meu minha são posso do_ da no_ na se mais fazer está
nl het een en is_ niet ik hoe van voor met op_ dat wat wie waar waarom mijn zijn kan_ of_ naar ook er wordt
sv och är inte jag hur en ett på med för att vad vem var varför min_ som det kan_ till av
pl i_ jest nie jak w z na do_ to_ co kto gdzie dlaczego mój moja się czy po że dla są
tr bir ve ne için mi nerede neden kim bu çok ile var değil
id yang dan di ini itu tidak saya bagaimana apa untuk dengan dari ke mengapa siapa bisa cara
vi là của và không tôi làm thế nào cho có một các được gì với
ro și este nu eu cum un_ o_ în pentru cu ce cine unde de_ce sunt pot mai
cs je_ není jak v_ na se co kdo kde proč můj jsou pro že
"""

_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("zh", re.compile(r"[\u3400-\u9fff]")),
    ("ko", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
    ("cyrillic", re.compile(r"[\u0400-\u052f]")),
    ("arabic", re.compile(r"[\u0600-\u06ff\u0750-\u077f]")),
    ("hebrew", re.compile(r"[\u0590-\u05ff]")),
    ("greek", re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")),
    ("devanagari", re.compile(r"[\u0900-\u097f]")),
    ("thai", re.compile(r"[\u0e00-\u0e7f]")),
    ("bengali", re.compile(r"[\u0980-\u09ff]")),
    ("tamil", re.compile(r"[\u0b80-\u0bff]")),
)
_LEAST_SHARE_OF_SCRIPT = 0.3  # of all characters: a foreign word quoted in an English question stays below
_LEAST_VOTES = 2  # one such word may be a name or a quotation


def _votes_by_word() -> Mapping[str, tuple[str, ...]]:
    votes: dict[str, tuple[str, ...]] = {}
    for line in _FUNCTION_WORDS.strip().splitlines():
        language, *words = line.split()
        for word in words:
            if not word.endswith("_") and word not in ENGLISH_STOPWORDS and language not in votes.get(word, ()):
                votes[word] = (*votes.get(word, ()), language)
    return MappingProxyType(votes)


_VOTES = _votes_by_word()
TRIGGERS = frozenset(_VOTES)


def language_of(text: str, tokens: Sequence[Token], flags: int) -> str:
    """Return a short code of the language, or an empty string when nothing speaks for one.

    Parameters
    ----------
    text : str
        In normal form.
    tokens : sequence of Token
    flags : int
        Of all tokens together.
    """
    if not text.isascii():
        script = _script_of(text)
        if script:
            return script
    if not flags & FOREIGN:
        return "en" if flags & STOP else ""
    votes = Counter(language for token in tokens if token.flags & FOREIGN for language in _VOTES.get(token.low, ()))
    language, most = max(sorted(votes.items()), key=lambda item: item[1])
    english = sum(1 for token in tokens if token.flags & STOP)
    if english >= most:
        return "en"
    return language if most >= _LEAST_VOTES else ""


def _script_of(text: str) -> str:
    """Script of enough of the text; Japanese before Chinese, whose signs it borrows."""
    needed = _LEAST_SHARE_OF_SCRIPT * len(text)
    for name, pattern in _SCRIPTS:
        found = len(pattern.findall(text))
        if found and (found >= needed or (name == "ja" and found >= needed / 3)):
            return name
    return ""


def compare_languages(left: str, right: str) -> Verdict:
    """Compare two codes; an unknown language is compatible with any."""
    if not left or not right:
        return ABSENT
    return AGREE if left == right else DIFFER
