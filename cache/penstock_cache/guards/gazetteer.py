"""Names that people write in lower case: places, human languages, programming languages, products.

Owns `NAMES`: one line per kind, one group of equal names each. Moderate on purpose: a name that is also an ordinary
English word is left out, for the guards take a hit at its word. Words joined by an underscore stand for a phrase.
"""

from __future__ import annotations

NAMES = """
language: english | french français francais | german deutsch | spanish español espanol castilian | italian italiano
language: portuguese português portugues
language: dutch | swedish | norwegian | danish | finnish | icelandic | russian | ukrainian | czech | slovak
language: hungarian | romanian | bulgarian | greek
language: turkish | arabic | hebrew | persian farsi | hindi | urdu | bengali bangla | tamil | telugu | marathi
language: gujarati | punjabi | malayalam | kannada
language: chinese mandarin | cantonese | japanese | korean | vietnamese | thai | indonesian bahasa | malay
language: tagalog filipino | swahili | latin | esperanto
language: croatian | serbian | slovenian | lithuanian | latvian | estonian | irish gaelic | welsh | catalan | basque
language: afrikaans | zulu | nepali | sinhala | mongolian
country: usa us_a america united_states | uk britain great_britain united_kingdom | england | scotland | wales
country: ireland | france | germany | spain | italy | portugal
country: netherlands holland | belgium | switzerland | austria | sweden | norway | denmark | finland | iceland
country: russia | ukraine | belarus | poland | hungary
country: czechia czech_republic | slovakia | romania | bulgaria | greece | serbia | croatia | slovenia | albania
country: estonia | latvia | lithuania | malta | cyprus | luxembourg
country: india | pakistan | bangladesh | nepal | sri_lanka | bhutan | afghanistan | iran | iraq | syria | lebanon
country: israel | palestine | jordan_ | saudi_arabia
country: uae united_arab_emirates | qatar | kuwait | oman | yemen | egypt | morocco | algeria | tunisia | libya
country: sudan | ethiopia | kenya | uganda | tanzania
country: rwanda | nigeria | ghana | senegal | cameroon | congo | angola | zambia | zimbabwe | mozambique | namibia
country: botswana | south_africa | madagascar | somalia
country: japan | south_korea | north_korea | taiwan | mongolia | vietnam | laos | cambodia | thailand | myanmar burma
country: malaysia | singapore | indonesia | philippines
country: australia | new_zealand | fiji | canada | mexico | brazil brasil | argentina | chile_ | peru | colombia
country: venezuela | ecuador | bolivia | paraguay | uruguay
country: cuba | jamaica | haiti | dominican_republic | costa_rica | panama | guatemala | honduras | nicaragua
country: el_salvador | kazakhstan | uzbekistan | georgia | armenia | azerbaijan
city: london | paris | berlin | madrid | barcelona | rome | milan | naples | venice | florence | lisbon | porto
city: amsterdam | rotterdam | brussels | zurich | geneva | vienna
city: munich | hamburg | frankfurt | cologne | stockholm | oslo | copenhagen | helsinki | reykjavik | dublin
city: edinburgh | glasgow | manchester | liverpool | birmingham | leeds
city: bristol | sheffield | newcastle | cardiff | belfast | oxford | cambridge | warsaw | krakow | prague | budapest
city: bucharest | sofia | athens | istanbul | ankara | moscow
city: st_petersburg saint_petersburg | kyiv kiev | new_york nyc new_york_city | los_angeles | san_francisco sf
city: chicago | boston | seattle | houston | dallas | austin | denver
city: phoenix | san_diego | san_jose | las_vegas vegas | miami | orlando | atlanta | philadelphia | detroit | portland
city: minneapolis | washington | toronto | montreal | vancouver
city: ottawa | calgary | mexico_city | havana | lima | bogota | santiago | buenos_aires | rio_de_janeiro rio
city: sao_paulo | tokyo | osaka | kyoto | seoul | busan | beijing
city: shanghai | shenzhen | guangzhou | hong_kong | taipei | bangkok | phuket | hanoi | saigon | jakarta | bali
city: manila | kuala_lumpur | delhi new_delhi | mumbai bombay
city: bangalore bengaluru | chennai madras | kolkata calcutta | hyderabad | pune | ahmedabad | jaipur | lucknow
city: karachi | lahore | islamabad | dhaka | kathmandu | colombo
city: dubai | abu_dhabi | doha | riyadh | jeddah | tehran | baghdad | beirut | jerusalem | tel_aviv | cairo
city: casablanca | nairobi | lagos | accra | johannesburg | cape_town
city: sydney | melbourne | brisbane | perth | adelaide | auckland | wellington | honolulu
region: california | texas | florida | alaska | hawaii | arizona | nevada | oregon | utah | colorado | ohio | michigan
region: illinois | massachusetts | virginia | pennsylvania
region: new_jersey | north_carolina | south_carolina | tennessee | kentucky | louisiana | minnesota | wisconsin
region: missouri | oklahoma | kansas | iowa | alabama | ontario | quebec
region: alberta | bavaria | catalonia | tuscany | sicily | kerala | punjab | gujarat | rajasthan | maharashtra
region: karnataka | bihar | queensland | europe | asia | africa | antarctica | oceania
planet: mercury_ | venus | mars | jupiter | saturn | uranus | neptune | pluto
ocean: atlantic | pacific | arctic | mediterranean | baltic
code: python | java | javascript js | typescript ts | cpp | csharp | golang | rust_ | ruby | php | perl | kotlin
code: swift_ | scala | haskell | lua | matlab | fortran | cobol | dart_
code: elixir | erlang | clojure | julia_ | bash | powershell | sql | html | css | solidity
framework: react reactjs | angular angularjs | vue vuejs | svelte | nextjs | django | flask_ | fastapi | rails
framework: laravel | symfony | spring_ | express_ | numpy | pandas | polars | pytorch torch_ | tensorflow | keras
framework: jquery
database: postgres postgresql | mysql | mariadb | sqlite | mongodb mongo | redis | cassandra | dynamodb | oracle
database: elasticsearch | snowflake_ | bigquery | redshift
system: windows | linux | ubuntu | debian | fedora | macos osx | android | ios | chromeos
cloud: aws | azure | gcp | heroku | vercel | netlify | digitalocean | cloudflare
tool: docker | kubernetes k8s | podman | git | svn | npm | yarn | pnpm | pip | conda | maven | gradle | webpack | vite
tool: vim | emacs | jenkins | terraform | ansible
file: csv | json | xml | yaml yml | pdf | docx | xlsx | png | jpg jpeg | gif | svg | mp3 | mp4 | wav | toml | parquet
file: markdown
company: google | microsoft | apple_ | amazon | facebook | netflix | tesla | toyota | honda | bmw | samsung | sony
company: nokia | huawei | xiaomi | intel | nvidia | amd | ibm | walmart | ikea | starbucks
service: whatsapp | telegram | instagram | snapchat | tiktok | twitter | youtube | spotify | gmail | outlook | skype
service: slack_ | discord_ | paypal | venmo | stripe_ | uber | lyft | airbnb | quora | reddit | linkedin | pinterest
device: iphone | ipad | macbook | pixel_ | galaxy_ | kindle | playstation ps5 | xbox | nintendo | airpods | alexa
device: siri
browser: chrome | firefox | safari_ | edge_ | opera_ | brave_
coin: bitcoin btc | ethereum eth | litecoin | dogecoin | solana
"""
