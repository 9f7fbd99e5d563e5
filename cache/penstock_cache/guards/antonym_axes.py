"""The table of opposites.

Owns `AXES`, a hand-written list. A line is an axis: words of one side, a bar, words of the other. Base forms only;
inflections meet by their stem. Words with many other uses are left out on purpose ("light", "fair", "fine"), and so
are words that stand for a whole scale in a question ("how old", "how long"). Nothing else belongs here.
"""

from __future__ import annotations

AXES = """
enable activate reactivate unmute unblock | disable deactivate mute block
switch_on | switch_off
ascend ascending asc | descend descending desc
buy purchase | sell
lend | borrow
import | export
upload | download
push | pull
encrypt encode | decrypt decode
encoder | decoder
compress zip_ | decompress unzip extract
serialize marshal | deserialize unmarshal
install reinstall | uninstall
min minimum minimal minimize minimise | max maximum maximal maximize maximise
increase raise rise grow gain boost | decrease reduce lower drop fall decline lose shrink
increment | decrement
upgrade | downgrade
expand extend widen lengthen | collapse shrink narrow shorten contract
add append attach insert | remove delete subtract detach
multiply multiplication | divide division
addition | subtraction
sum | difference
numerator | denominator
odd | even
positive | negative
plus | minus
left | right
leftmost | rightmost
top topmost upper uppermost | bottom lowermost
uppercase capitalize | lowercase
horizontal row | vertical column
north northern | south southern
northeast | southwest
east eastern | west western
upward upstairs upstream | downward downstairs downstream
above | below beneath underneath
inside indoor indoors inner interior internal | outside outdoor outdoors outer exterior external
inbound incoming | outbound outgoing
before prior pre | after post_
beforehand | afterwards
early earlier earliest | late later latest
first | last
start begin launch initiate | stop end halt terminate quit
start begin | finish complete
open | close shut closed
lock | unlock
connect pair | disconnect unpair
attach | detach
link | unlink
pin | unpin
mount | unmount
follow | unfollow
like | dislike
friend | unfriend
hide | unhide show reveal
subscribe resubscribe | unsubscribe
login | logout
sign_in | sign_out
sign_up | sign_out
check_in | check_out
clock_in | clock_out
opt_in | opt_out
zoom_in | zoom_out
fade_in | fade_out
turn_up | turn_down
speed_up | slow_down
scale_up | scale_down
back_up | restore
go_up | go_down
move_in | move_out
plug | unplug
load | unload
pack | unpack
wrap | unwrap
freeze | thaw unfreeze defrost
allow permit let legalize | forbid ban prohibit deny disallow
allowlist whitelist | denylist blacklist blocklist
accept approve | reject decline refuse
grant | revoke
include including included inclusive | exclude excluding excluded exclusive
inclusion | exclusion
public | private
visible | hidden invisible
local | remote
global | local
online | offline
automatic automatically auto_ | manual manually
synchronous sync_ | asynchronous async
static | dynamic
mutable | immutable
required mandatory compulsory | optional voluntary
temporary temporarily | permanent permanently
fixed | variable
shallow | deep
strict | lenient loose
strong stronger strongest | weak weaker weakest
weaken | strengthen
hard difficult harder hardest | easy easier easiest
fast faster fastest quicker quickest | slow slower slowest
hot hotter hottest | cold colder coldest
warm | cool
heat | ice
summer | winter
sunrise dawn | sunset dusk
big bigger biggest large larger largest | small smaller smallest tiny
long_ longer longest | short_ shorter shortest
tall taller tallest | short_ shorter shortest
high_ higher highest | low lower lowest
wide wider widest | narrow narrower narrowest
thick thicker thickest | thin thinner thinnest
heavy heavier heaviest | lightweight lighter lightest
new_ newer newest | older oldest
young younger youngest | older oldest elderly
rich richer richest wealthy | poor poorer poorest
good_ better best | bad worse worst
cheap cheaper cheapest | expensive pricier priciest
safe safely safer safest | dangerous unsafe
healthy | unhealthy
legal lawful | illegal unlawful
true | false
correct right_ | incorrect wrong
valid | invalid
success succeed successful pass | failure fail unsuccessful
win winner | lose loser
happy happier happiest | sad unhappy
love | hate
advantage benefit pros | disadvantage drawback downside cons
profit | loss
asset | liability
income revenue | expense expenditure
credit | debit
deposit | withdraw withdrawal
debtor | creditor
landlord | tenant renter
employer | employee
plaintiff | defendant
teacher | student
buyer | seller
lender | borrower
sender | recipient receiver
send | receive
parent | child
father dad | mother mom
son | daughter
brother | sister
husband | wife
uncle | aunt
nephew | niece
man male | woman female
boy | girl
king | queen
groom | bride
boyfriend | girlfriend
mens | womens
adult | child toddler infant
ancestor | descendant
predecessor | successor
client | server
host | guest
producer publisher | consumer subscriber
input | output
read | write
reader | writer
getter | setter
push | pop
enqueue | dequeue
request | response
source | destination target
origin | destination
arrive arrival | depart departure
takeoff | landing
enter entry entrance | exit
inhale | exhale
wake | sleep asleep
awake | asleep
dead | alive
born birth | die death
birthday | funeral
marry marriage wedding | divorce
hire recruit | fire dismiss sack
employed employment | unemployed unemployment
promote promotion | demote demotion
build construct | demolish destroy
create | destroy
attack | defend defense
offense offensive | defense defensive
war | peace
victory | defeat
friend | enemy foe
hero | villain
protagonist | antagonist
ally | enemy
guilty | innocent
natural | artificial synthetic
organic | inorganic
raw | cooked
fresh | frozen
fresh | stale
ripe | unripe
sweet | sour bitter
sweet | savory savoury
wet | dry
clean | dirty
full | empty
fill | empty drain
fat | skinny thin
front | rear back_
forward forwards | backward backwards reverse
clockwise | anticlockwise counterclockwise
ahead | behind
near nearest close_ closest | far farthest furthest
most | least
more | less fewer
many | few
majority | minority
all | none
always | never
often frequent frequently | rarely seldom infrequent
everyone everybody | nobody
everything | nothing
everywhere | nowhere
singular | plural
formal formally | informal informally casual
polite politely | rude rudely
simple | complex complicated
abstract | concrete
active | passive
optimistic | pessimistic
extrovert extroverted | introvert introverted
domestic | international foreign
urban | rural
ancient | modern
past | future
weekday | weekend
acid acidic | alkaline basic_
solid | liquid
liquid | gas
proton | electron
anode | cathode
cation | anion
oxidation | oxidize reduction
convex | concave
acute | obtuse
acute | chronic
benign | malignant
overactive | underactive
overweight | underweight
overcharge | undercharge
overpay | underpay
overestimate | underestimate
systolic | diastolic
hypertension | hypotension
hyperglycemia | hypoglycemia
hyperthyroidism | hypothyroidism
constipation | diarrhea diarrhoea
dilate | constrict
inflation | deflation
bull bullish | bearish
surplus | deficit
supply | demand
prime | composite
rational | irrational
finite | infinite
sine sin_ | cosine cos
derivative differentiate | integral integrate
union | intersection
intersection | difference
gross | net
wholesale | retail
prepaid | postpaid
remember | forget
agree | disagree
trust | distrust
appear | disappear vanish
obey | disobey
tie | untie
dress | undress
cover | uncover
fold | unfold
mom mother | dad father
mortal | immortal
literate | illiterate
possible | impossible
likely | unlikely
able | unable
available | unavailable
reversible | irreversible
regular | irregular
perfect | imperfect
mature | immature
responsible | irresponsible
known | unknown
limited | unlimited
leftist | rightist
democrat democratic_ | republican
liberal | conservative
vegetarian vegan | carnivore meat_
decaf | caffeinated
sugarless unsweetened | sugary sweetened
salted | unsalted
indoors | outdoors
single | married
major | minor
senior | junior
master | apprentice
quiet | loud noisy
louder | quieter
brighten brighter | dim darken
bright | dark
tighten tight | loosen loose
inflate | deflate
melt | solidify
question | answer
debug | release
commit | revert rollback
merge | split
join combine | separate split
cache | evict
inherit | override
parse | stringify
truthy | falsy
frontend | backend
unsigned | signed
horizontal landscape_ | portrait
prefix | suffix
preorder | postorder
bfs breadth | dfs depth
stack | queue
lossy | lossless
"""
