"""The words of English that `semantic_guard` tells apart; words that mean the same have the same value."""
from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _groups(text: str) -> dict[str, str]:
    """Return each word of a line with the line's first word as its value."""
    return {word: line.split()[0] for line in text.strip().splitlines() for word in line.split()}


FUNCTION_WORDS = _words(
    "a an the this that these those and or but if of to in on at by for from with about as is are was were be been am "
    "do does did have has had can could will would should shall may might must i you he she it we they my your his her "
    "its our their me him us them what which who whom whose when where why how there here so than then not no any some"
)
# Those of the words above that other languages written in Latin letters have too
SHARED_WORDS = _words("a am an as at be by die do has he i in is me no not of on or so to us was we will")
PRONOUNS = _words("i i'm i've i'd i'll im ive id ill ok okay")
OPENERS = FUNCTION_WORDS | _words(
    "please tell give show explain describe summarise summarize list find get make write translate convert compare "
    "help hi hello hey thanks thank yes let lets also just still someone something somebody anyone everyone "
    "today every "
    "after before because since while during once whenever unless although though however well now maybe perhaps "
    "need want wanted trying tried looking got getting going am isn't don't doesn't didn't won't can't cannot couldn't "
    "wouldn't shouldn't haven't hasn't wasn't aren't using use where's what's how's who's it's there's i'm that's "
    "define calculate compute create generate suggest recommend provide return check delete remove add set change "
    "update cancel order send open close reset"
)
NEGATIONS = _groups("""
not cannot dont doesnt didnt isnt arent wasnt werent cant couldnt wont wouldnt shouldnt hasnt havent hadnt
no none
never
nobody
nothing
neither
nor
without
nowhere
""")
# `one` is missing, as it is mostly a pronoun
NUMBER_WORDS = _groups("""
0 zero
2 two
3 three
4 four
5 five
6 six
7 seven
8 eight
9 nine
10 ten
11 eleven
12 twelve dozen
13 thirteen
14 fourteen
15 fifteen
16 sixteen
17 seventeen
18 eighteen
19 nineteen
20 twenty
30 thirty
40 forty
50 fifty
60 sixty
70 seventy
80 eighty
90 ninety
100 hundred
1000 thousand
million
billion
half
third
quarter
twice double
triple
% percent
""")
CURRENCIES = _groups("""
usd dollar dollars
eur euro euros
gbp pound pounds sterling
jpy yen
inr rupee rupees
chf franc francs
cny rmb yuan
aud
cad
sek
nok
dkk
pln zloty
btc bitcoin bitcoins
eth ethereum
""")
DATES = _groups("""
monday mon mondays
tuesday tue tuesdays
wednesday wed wednesdays
thursday thu thursdays
friday fri fridays
saturday saturdays
sunday sundays
january jan
february feb
march
april apr
june jun
july jul
august aug
september sep sept
october oct
november nov
december dec
today
tomorrow
yesterday
tonight
morning
noon midday
afternoon
evening
night
midnight
hour hours hourly
minute minutes
second seconds
day days daily
week weeks weekly
weekend weekends
month months monthly
year years yearly annual annually
next
last
spring
summer
autumn fall
winter
christmas
easter
""")
OPPOSITES = _groups("""
more
less
fewer
most
least
greater
larger bigger
smaller
higher
lower
highest
lowest
older
newer
oldest
newest latest
longer
shorter
faster
slower
cheaper
best
worst
better
worse
before
after
above over
below under
minimum min
maximum max
first
enable enabled enabling
disable disabled disabling
activate activated activating activation
deactivate deactivated deactivating
allow allowed
block blocked blocking
unblock unblocked
lock locked
unlock unlocked
freeze frozen
unfreeze
open opened opening
close closed closing
start started begin
stop stopped end ended
add added adding
remove removed removing delete deleted deleting
increase increased raise raised
decrease decreased reduce reduced
buy buying bought
sell selling sold
send sending sent
receive receiving received
import imported importing
export exported exporting
upload uploading
download downloading
deposit deposited depositing
withdraw withdrawal withdrawing withdrew withdrawn
debit
credit
virtual
physical
left
right
safe
unsafe dangerous
legal
illegal
include including included
exclude excluding excluded
accept accepted
decline declined
reject rejected
all every
only
except
always
win won
lose lost
encrypt
decrypt
ascending
descending
positive
negative
true
false
same
different
""")
PARTICLES = _words("on off in out up down")  # tell opposites apart only behind one of these
PARTICLE_VERBS = _words(
    "turn turned turning switch switched switching log logged logging sign signed signing opt opted scale "
    "scaled scaling "
    "check checked checking go going roll rolled rolling speed slow power powered scroll zoom opting"
)
PLACES = _words(
    "eu uk usa america american europe european england english britain british scotland scottish ireland irish wales "
    "france french germany german spain spanish italy italian portugal portuguese netherlands dutch belgium belgian "
    "switzerland swiss austria austrian poland polish sweden swedish norway norwegian denmark danish finland finnish "
    "greece greek turkey turkish russia russian ukraine ukrainian hungary hungarian romania romanian czech bulgaria "
    "china chinese japan japanese korea korean india indian pakistan indonesia vietnam vietnamese thailand thai "
    "philippines malaysia singapore australia australian canada canadian mexico mexican brazil brazilian argentina "
    "chile colombia peru egypt egyptian nigeria kenya morocco africa african israel israeli iran iraq arabia "
    "arabic asia "
    "asian london paris berlin madrid rome vienna moscow tokyo beijing delhi york chicago boston dublin lisbon "
    "amsterdam visa mastercard amex paypal apple google amazon microsoft android iphone ios windows linux mac "
    "swift sepa iban atm"
)
