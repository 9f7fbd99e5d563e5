"""Light stemming: one key for a word's inflections, its British and American spelling, and its closest synonyms.

Owns `stem_of`. A key need not be a word ("enabl"). It must never join opposites: the guards compare keys. Read
`stem_of` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_VOWELS = frozenset("aeiouyáàâäãåéèêëíìîïóòôöõúùûü")

# Base form, then the forms that no suffix rule finds.
_IRREGULAR_FORMS = """
be am is are was were been being | have has had having | do does did done doing | go goes went gone | get got gotten
make made | take took taken | give gave given | come came | see saw seen | know knew known | think thought | say said
tell told | find found | buy bought | bring brought | sell sold | send sent | spend spent | build built | lend lent
lose lost losing loss | leave left_ | feel felt | keep kept | sleep slept | meet met | pay paid payment | hold held
write wrote written | speak spoke spoken | break broke broken | choose chose chosen choice | drive drove driven
eat ate eaten | fall fell fallen | fly flew flown flight_ | forget forgot forgotten | freeze froze frozen
grow grew grown | hide hid hidden | ride rode ridden | rise rose_ risen | run ran | sing sang sung | sit sat_
steal stole stolen | swim swam swum | teach taught | catch caught | throw threw thrown | wake woke woken
wear wore worn | win won winner | begin began begun | drink drank drunk_ | draw drew drawn | learn learnt
burn burnt | dream dreamt | spell spelt | mean meant meaning | understand understood | stand stood | shoot shot
hear heard | seek sought | fight fought | show shown | die died dies dying | lie lying | tie tying
withdraw withdrew withdrawn withdrawal | convert conversion | subscribe subscription | receive receipt_ reception_
man men | woman women | child children kid kids | person people | foot feet | tooth teeth | mouse mice | goose geese
life lives | wife wives | knife knives | half halves | wolf wolves | leaf leaves_ | criterion criteria
analysis analyses | datum data | medium media_ | index indices indexes | matrix matrices | vertex vertices
color colour | gray grey | check cheque | program programme programs programmes | center centre | theater theatre
meter metre | liter litre | license licence | defense defence | tire tyre | catalog catalogue | dialog dialogue
jewelry jewellery | airplane aeroplane plane | aluminum aluminium | pajama pyjamas | mom mum | math maths mathematics
delete deletion removal remove removed removing erase | cancel cancelled canceled cancellation cancelling
difference different differ differs | high height | long length | deep depth | wide width | strong strength
explain explanation | describe description | compare comparison | recommend recommendation suggest suggestion
advise advice | apply application applied | app apps | invite invitation
compute computation calculate calculation work_out
reset resetting | arrive arrival | depart departure | refuse refusal | deny denial denied | approve approval
renew renewal | propose proposal | decide decision | expand expansion | extend extension | permit permission
pronounce pronunciation | behave behavior behaviour | favor favour favorite favourite | marry marriage married
"""

# Each line is one meaning in the mouths of people who ask; opposites and different degrees stay apart.
_SYNONYMS = """
buy purchase | begin start commence | end finish_ | fix repair mend | photo picture image pic
phone mobile cellphone smartphone
quick fast rapid swift | big large huge | small little tiny | happen occur | need require | help assist aid
show display | choose select pick | create make generate produce | get obtain acquire | allow let permit
error bug_ issue_ problem trouble | film movie | car auto automobile | doctor physician | job occupation
holiday vacation | flat_ apartment | lift_ elevator | autumn fall_ | pants_ trousers | cost price fee
salary wage pay_
answer reply response respond | ask inquire enquire | try attempt | change modify alter | keep retain
cause reason | method way approach technique | place location | kind type sort_ | typical usual normal
perhaps maybe | almost nearly | approximate roughly | correct accurate | important crucial vital
main primary principal
advantage benefit pro_ | disadvantage drawback downside | company firm corporation | shop store_ | boss manager_
easy simple | hard_ difficult tough | funny humorous | pretty beautiful | rich wealthy | famous well-known renowned
tv television | bike bicycle | fridge refrigerator | exam examination test_ | uni university college
address_ email e-mail mail_
definition define mean | ill sick | medicine medication drug_ | kid child | dad father | mom mother | wife spouse_
rubbish trash garbage | cab taxi | petrol gasoline | motorway freeway highway | luggage baggage | queue line_
postcode zip_ | mate buddy friend | guy man | info information | ad advert advertisement | lab laboratory
song track_ tune | colleague coworker | teen teenager | currency money_ | earth_ globe | sofa couch
internet web_ online_ | website site webpage | file_ | folder directory | function method_
summary summarize recap overview_
rewrite rephrase reword paraphrase | improve enhance | discuss | contain include_ | sum_ total_
number_ count_ quantity_
"""


def _rules_only(word: str) -> str:
    """Strip suffixes; the order of the rules is that of their length."""
    if len(word) <= 3 or not word.isalpha():
        return word
    word = _american(word)
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "xes", "zes", "ches", "shes")):
        word = word[:-2]
    elif word[-1] == "s" and word[-2] not in "sui":
        word = word[:-1]
    word = _without_suffix(word)
    if word[-1] == "e" and len(word) > 3:
        word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in _VOWELS:
        word = word[:-1]
    return word


def _american(word: str) -> str:
    if word.endswith(("ise", "ised", "ises", "ising", "isation", "yse", "ysed", "ysing")) and len(word) > 6:
        head, _, tail = word.rpartition("is" if "is" in word[-7:] else "ys")
        return head + ("iz" if "is" in word[-7:] else "yz") + tail
    if word.endswith("our") and len(word) > 5:
        return word[:-3] + "or"
    return word


def _without_suffix(word: str) -> str:
    for suffix, least in (("ation", 4), ("ating", 4), ("ated", 4), ("ate", 4), ("ment", 4), ("ing", 3), ("ed", 3)):
        if word.endswith(suffix) and len(word) - len(suffix) >= least:
            head = word[: -len(suffix)]
            return head if not _VOWELS.isdisjoint(head) else word
    if word.endswith(("tion", "sion")) and len(word) > 6:
        return word[:-3]
    if word.endswith("ly") and len(word) > 5:
        return word[:-2]
    return word


def _groups(table: str) -> list[list[str]]:
    """Groups of a table; a word with a trailing underscore has another sense and is left out."""
    lines = (group.split() for row in table.strip().splitlines() for group in row.split("|"))
    return [[word for word in words if not word.endswith("_")] for words in lines]


def _irregular_stems() -> Mapping[str, str]:
    stems: dict[str, str] = {}
    for words in _groups(_IRREGULAR_FORMS):
        stems |= {word: _rules_only(words[0]) for word in words if word not in stems}
    return MappingProxyType(stems)


_IRREGULAR = _irregular_stems()


def _form(word: str) -> str:
    return _IRREGULAR.get(word) or _rules_only(word)


def _synonym_stems() -> Mapping[str, str]:
    stems: dict[str, str] = {}
    for words in _groups(_SYNONYMS):
        if not words:
            continue
        first = _form(words[0])
        stems |= {_form(word): stems.get(first, first) for word in words if _form(word) not in stems}
    return MappingProxyType(stems)


_SYNONYM = _synonym_stems()


def form_of(word: str) -> str:
    """Return the key of a lower-case word's inflections, synonyms apart.

    Examples
    --------
    >>> form_of("enabling") == form_of("enabled") == form_of("enable")
    True
    """
    if word.endswith("'s"):
        word = word[:-2]
    return _form(word)


def stem_of(word: str) -> str:
    """Return the key of a lower-case word under which inflections and close synonyms meet.

    Examples
    --------
    >>> stem_of("purchased") == stem_of("buying")
    True
    >>> stem_of("colour") == stem_of("colors")
    True
    """
    form = form_of(word)
    return _SYNONYM.get(form, form)
