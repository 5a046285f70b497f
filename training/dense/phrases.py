"""Referring expressions as the server writes them: `{name} ({TYPE})-{expansion}`, and what each of them means.

Names come from the training split of Twitter-GMNER (with FMNERG's fine types) and from lists of brands, pets and
synonyms written here. Questions (`asked`) take only names that training never says: those of the development tweets
that no training tweet and no list has, half of them for the `dev` photos and half for the `heldout` ones.
"""

import random
import zlib
from dataclasses import dataclass, field

SPECIAL = {"film_and_television_works": "a film or television work", "brand_name_products": "a brand product",
           "software": "a software product", "music": "a piece of music", "art_other": "a work of art",
           "location_other": "a place", "medical_thing": "a medical thing", "sports_team": "a sports team"}
COARSE = {"person": "PER", "location": "LOC", "organization": "ORG", "building": "LOC", "event": "MISC", "art": "MISC",
          "product": "MISC", "other": "MISC"}
GENERIC = {"PER": "a person", "LOC": "a place", "ORG": "an organization", "MISC": "a thing"}

SYNONYMS = {
    "bicycle": "bicycle,bike,cycle,mountain bike,road bike", "car": "car,automobile,sedan,taxi,cab,suv,sports car,vehicle",
    "motorcycle": "motorcycle,motorbike,scooter,moped", "airplane": "airplane,plane,jet,airliner,aircraft,flight,jumbo jet",
    "bus": "bus,coach,double decker,city bus,shuttle bus", "train": "train,railway,locomotive,tram,express train,metro",
    "truck": "truck,lorry,pickup,van,fire truck", "boat": "boat,ship,yacht,sailboat,ferry,canoe,vessel",
    "traffic light": "traffic light,traffic signal,stoplight", "fire hydrant": "fire hydrant,hydrant",
    "stop sign": "stop sign,road sign", "parking meter": "parking meter", "bench": "bench,park bench",
    "bird": "bird,gull,duck,goose,pigeon,parrot,eagle,owl", "cat": "cat,kitten,kitty,tabby", "dog": "dog,puppy,pup,hound,terrier,retriever",
    "horse": "horse,pony,mare,stallion,racehorse", "sheep": "sheep,lamb,ram,ewe", "cow": "cow,bull,cattle,calf,ox,buffalo",
    "elephant": "elephant,elephants,elephant calf", "bear": "bear,grizzly,polar bear", "zebra": "zebra", "giraffe": "giraffe",
    "backpack": "backpack,rucksack,bag", "umbrella": "umbrella,parasol", "handbag": "handbag,purse,bag,tote",
    "tie": "tie,necktie", "suitcase": "suitcase,luggage,trunk", "frisbee": "frisbee,disc", "skis": "skis,ski",
    "snowboard": "snowboard", "sports ball": "ball,football,basketball,soccer ball,tennis ball,baseball", "kite": "kite",
    "baseball bat": "baseball bat,bat", "baseball glove": "baseball glove,mitt", "skateboard": "skateboard",
    "surfboard": "surfboard,board", "tennis racket": "tennis racket,racquet,racket", "bottle": "bottle,beer bottle,wine bottle,water bottle",
    "wine glass": "wine glass,glass", "cup": "cup,mug,paper cup,soda cup,coffee cup,drink", "fork": "fork", "knife": "knife",
    "spoon": "spoon", "bowl": "bowl,dish", "banana": "banana,bananas", "apple": "apple,apples fruit", "sandwich": "sandwich,burger,sub,toast",
    "orange": "orange,orange fruit,tangerine", "broccoli": "broccoli", "carrot": "carrot,carrots", "hot dog": "hot dog,sausage",
    "pizza": "pizza,pizza slice", "donut": "donut,doughnut", "cake": "cake,birthday cake,cupcake,wedding cake",
    "chair": "chair,armchair,seat,stool", "couch": "couch,sofa,settee", "potted plant": "potted plant,plant,houseplant",
    "bed": "bed,mattress", "dining table": "dining table,table,desk", "toilet": "toilet", "tv": "tv,television,monitor,screen",
    "laptop": "laptop,notebook computer,computer", "mouse": "computer mouse", "remote": "remote,remote control,controller",
    "keyboard": "keyboard,computer keyboard", "cell phone": "cell phone,phone,smartphone,mobile phone", "microwave": "microwave",
    "oven": "oven,stove", "toaster": "toaster", "sink": "sink,basin", "refrigerator": "refrigerator,fridge", "book": "book,books,novel",
    "clock": "clock,clock tower", "vase": "vase,pot", "scissors": "scissors", "teddy bear": "teddy bear,teddy,stuffed animal,plush toy",
    "hair drier": "hair drier,hairdryer", "toothbrush": "toothbrush",
    "building": "building,house,tower,hall,castle,church,hotel,temple,palace", "door": "door,gate", "window": "window",
    "hat": "hat,cap", "glasses": "glasses,sunglasses", "hair": "hair", "dress": "dress,gown", "pants": "pants,jeans,trousers",
    "skirt": "skirt", "coat": "coat,jacket,blazer", "shoes": "shoes,sneakers,boots,heels", "shirt": "shirt,t-shirt,tee",
    "shorts": "shorts", "butterfly": "butterfly", "dolphin": "dolphin"}
BRANDS = {
    "airplane": "Boeing,Boeing 747,Boeing 737 MAX,Dreamliner,Airbus,Airbus A380,Airbus A320,KLM,Lufthansa,Emirates,"
                "Air France,Delta Airlines,Qantas,British Airways,Cessna,Ryanair,Thai Airways,Concorde,Spitfire,Singapore Airlines",
    "bus": "Volvo bus,Arriva,Stagecoach,Greyhound,Routemaster,First Bus,MAN bus,Veolia bus,Megabus,National Express",
    "car": "Toyota,BMW,Tesla,Tesla Model S,Ford Mustang,Ferrari,Audi,Honda Civic,Porsche 911,Mini Cooper,Jeep,Mercedes,Nissan,Uber,Lamborghini,Chevrolet,Volkswagen Golf,Prius,Hyundai taxi",
    "motorcycle": "Harley Davidson,Ducati,Vespa,Yamaha R1,Kawasaki,Triumph,Honda Goldwing", "bicycle": "Trek,Giant bike,Cannondale,BMX,Schwinn,Surly",
    "train": "Amtrak,Eurostar,Shinkansen,TGV,Flying Scotsman,Deutsche Bahn,Caltrain", "truck": "Ford F-150,Scania,Mack,Silverado,Dodge Ram,UPS,Freightliner",
    "boat": "Titanic,Queen Mary,HMS Victory,Staten Island Ferry,Sunseeker,USS Enterprise", "cup": "Coca-Cola,Starbucks,Coke,Tim Hortons,Costa,Dunkin,Big Gulp,Dr Pepper",
    "bottle": "Heineken,Coca-Cola,Corona,Budweiser,Evian,Jack Daniels,Sprite,Fanta,Guinness,Absolut,Gatorade",
    "wine glass": "Merlot,Chardonnay,Moet", "laptop": "MacBook,MacBook Pro,ThinkPad,Dell XPS,Chromebook,Lenovo", "cell phone": "iPhone,iPhone 7,Samsung Galaxy,Nokia,BlackBerry,HTC One,Nexus,Pixel",
    "tv": "Sony Bravia,Samsung TV,LG OLED,Panasonic", "sandwich": "Big Mac,Whopper,Subway,Reuben", "donut": "Krispy Kreme,Dunkin Donuts", "pizza": "Pizza Hut,Dominos,Papa Johns,Margherita",
    "teddy bear": "Paddington,Teddy,Winnie the Pooh", "handbag": "Gucci,Prada,Louis Vuitton,Michael Kors", "shoes": "Air Jordan,Nike Air,Yeezy,Converse,Adidas Superstar,Louboutin",
    "skateboard": "Tony Hawk board,Vans", "tennis racket": "Wilson,Head racket,Babolat", "keyboard": "Logitech,Cherry", "remote": "Wii,Nintendo Wii,Xbox controller,PlayStation",
    "clock": "Big Ben,Rolex,Casio", "book": "Harry Potter,Bible,Game of Thrones book,Lonely Planet", "refrigerator": "Smeg,Whirlpool", "microwave": "Panasonic oven",
    "surfboard": "Rip Curl,Quiksilver", "suitcase": "Samsonite,Rimowa", "backpack": "North Face,Jansport,Eastpak", "snowboard": "Burton", "cake": "Victoria sponge,Red Velvet",
    "building": "Empire State Building,Taj Mahal,Big Ben,White House,Buckingham Palace,Notre Dame,Hilton Hotel,Royal Albert Hall,Town Hall,Grand Hotel"}
PETS = ("Max,Bella,Luna,Charlie,Lucy,Rocky,Daisy,Simba,Milo,Coco,Rex,Fido,Lassie,Molly,Oscar,Grumpy Cat,Cecil,Dumbo,Babe,"
        "Bailey,Sadie,Toby,Duke,Felix,Garfield,Shadow,Ginger,Harambe,Knut,Dolly,Secretariat,Seabiscuit,Raja,Hachiko").split(",")
ANIMALS = ["bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"]
GROUPS = {
    "animal": (ANIMALS, ["animal", "pet", "creature", "wild animal", "zoo animal"]),
    "vehicle": (["bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"], ["vehicle", "transport", "public transport vehicle"]),
    "food": (["banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"], ["food", "meal", "snack", "lunch"]),
    "product": (["car", "motorcycle", "bottle", "cup", "laptop", "cell phone", "tv", "handbag", "teddy bear", "remote", "airplane"],
                ["gadget", "device", "product"]),
    "furniture": (["chair", "couch", "bed", "dining table", "bench"], ["furniture"])}
PERSON_WORDS = ["person", "man", "woman", "boy", "girl", "player", "guy", "lady", "kid", "people", "singer", "fan", "tennis player",
                "rider", "driver", "surfer", "skater", "child", "chef", "model"]
PERSON_NAMES = ("Serena Williams,Mike Trout,Anna,Tom,Sarah Jones,Kenji,Priya,Venus,"
                "Emma Watson,Mary,Dad,Grandma,Mohamed,Li Wei,Olga,Carlos,Dr Smith,Uncle Bob,Justin").split(",")
NEVER = ["city", "country", "state", "continent", "road", "park", "location_other", "sports_league", "festival", "sports_event",
         "event_other", "award", "website", "ordinance", "medical_thing", "music", "political_party", "government_agency",
         "social_organization", "news_agency", "educational_institution", "film_and_television_works"]


def article(words):
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def expansion(fine):
    """The words after the hyphen, as the server makes them from a fine type."""
    if fine in SPECIAL:
        return SPECIAL[fine]
    words = fine.replace("_", " ")
    return article(words[:-6] if words.endswith(" other") else words)


@dataclass
class Phrase:
    text: str
    classes: set = field(default_factory=set)  # what it names; empty: never visible
    shown: float = 1.0  # how likely it is meant when such a thing is visible
    place: float = 1.0  # weight of its place


class Names:
    """Names of some tweets by fine type; of those, the names that `keep` lets through."""

    def __init__(self, file, keep=lambda name: True):
        self.by_type = {}
        words, kind = [], None
        for line in list(open(file, encoding="utf-8")) + ["\n"]:
            parts = line.rstrip("\n").split("\t")
            tag = parts[2] if len(parts) == 3 else "O"
            if not tag.startswith("I-") and words:
                self.by_type.setdefault(kind, []).append(" ".join(words))
                words = []
            if tag.startswith("B-"):
                kind, words = (parts[1][2:], tag[2:]), [parts[0]]
            elif tag.startswith("I-"):
                words.append(parts[0])
        self.by_type = {k: kept for k, ns in self.by_type.items() if (kept := [n for n in ns if keep(n)])}
        self.persons = [(f, n) for (c, f), ns in self.by_type.items() if c == "person" for n in ns if f != "character"]
        self.fine = {f: (COARSE[c], ns) for (c, f), ns in self.by_type.items()}
        self.misc = [n for (c, f), ns in self.by_type.items() if COARSE[c] in ("MISC", "ORG") for n in ns]
        self.all = [n for ns in self.by_type.values() for n in ns]

    def of(self, rng, fine):
        return rng.choice(self.fine[fine][1])


def unseen(data, part):
    """The names of the questions on the photos of a part (`dev` or `heldout`)."""
    said = {n.lower() for n in Names(f"{data}/fmnerg/train.txt").all + PERSON_NAMES + PETS}
    said |= {n.lower() for brands in BRANDS.values() for n in brands.split(",")}
    half = ("dev", "heldout").index(part)
    return Names(f"{data}/fmnerg/dev.txt", lambda n: n.lower() not in said and zlib.crc32(n.lower().encode()) % 2 == half)


def asked(rng, names, c):
    """A question for a class: a name (of `unseen`), and what it is in the words after it or in the name itself."""
    if c == "person":
        fine, name = rng.choice(names.persons)
        return f"{name} (PER)-{rng.choice([expansion(fine), expansion(fine), GENERIC['PER']])}"
    word, kind = rng.choice(SYNONYMS.get(c, c).split(",")), "LOC" if c == "building" else "MISC"
    u = rng.random()
    if u < 0.5:
        return f"{rng.choice(names.misc)} ({kind})-{article(word)}"
    if u < 0.75:
        return f"{rng.choice(names.misc)} {word} ({kind})-{tails(rng, c)}"
    return f"{word.capitalize()} ({kind})-{article(word)}"


def questions(data, part):
    """What asks for a class on the photos of a part: (random, class) -> expression. Training photos are asked as they
    are in training."""
    if part == "train":
        names = Names(f"{data}/fmnerg/train.txt")
        return lambda rng, c: (person(rng, names) if c == "person" else named(rng, names, c)).text
    names = unseen(data, part)
    return lambda rng, c: asked(rng, names, c)


def person(rng, names):
    u = rng.random()
    fine, name = rng.choice(names.persons)
    if u < 0.12:
        name = rng.choice(PERSON_NAMES)
    elif u < 0.22:
        name = rng.choice(PERSON_WORDS).capitalize()
    u = rng.random()
    if u < 0.68:
        tail = expansion(rng.choice(names.persons)[0] if rng.random() < 0.4 else fine)
    elif u < 0.9:
        tail = GENERIC["PER"]
    else:
        tail = article(rng.choice(PERSON_WORDS))
    return Phrase(f"{name} (PER)-{tail}", {"person"})


def kind_of(c):
    if c in ANIMALS or c in ("butterfly", "dolphin"):
        return "animal"
    return "building" if c == "building" else "product"


def tails(rng, c):
    kind = kind_of(c)
    if kind == "animal":
        return "an animal"
    if kind == "building":
        return expansion(rng.choice(["building_other", "cultural_place", "entertainment_place", "sports_facility"]))
    return rng.choice(["a brand product", "a product", "a brand product", "a thing"])


def named(rng, names, c):
    """An expression for a class that says what the thing is."""
    word = rng.choice(SYNONYMS.get(c, c.split(",")[0]).split(","))
    kind = "LOC" if c == "building" else "MISC"
    u = rng.random()
    if c in BRANDS and u < 0.4:
        brand = rng.choice(BRANDS[c].split(","))
        if c != "building" and rng.random() < 0.2:
            return Phrase(f"{brand} (ORG)-a company", {c})
        return Phrase(f"{brand} ({kind})-{tails(rng, c)}", {c})
    if u < 0.6:
        name = rng.choice(PETS) if kind_of(c) == "animal" else rng.choice(names.misc)
        return Phrase(f"{name} ({kind})-{article(word)}", {c})
    if u < 0.8:
        name = rng.choice(names.all)
        name = rng.choice([f"{name} {word}", f"{name} {word}", f"{word} {name}", f"{word} ride", f"The {word}"])
        return Phrase(f"{name} ({kind})-{tails(rng, c)}", {c})
    if u < 0.92:
        return Phrase(f"{word.capitalize()} ({kind})-{rng.choice([article(word), tails(rng, c)])}", {c})
    return Phrase(rng.choice([word, article(word), f"the {word}"]), {c})


def group(rng, names, g):
    classes, words = GROUPS[g]
    if g == "animal":
        tail = rng.choice(["an animal"] * 4 + [article(rng.choice(words))])
        return Phrase(f"{rng.choice(PETS)} (MISC)-{tail}", set(classes))
    if g == "product":
        name = names.of(rng, rng.choice(["brand_name_products", "product_other"]))
        return Phrase(f"{name} (MISC)-{rng.choice(['a brand product', 'a product'])}", set(classes), 0.6, 0.3)
    return Phrase(f"{rng.choice(names.misc)} (MISC)-{article(rng.choice(words))}", set(classes))


def logo(rng, brand):
    word = {"Cocacola": "Coca-Cola", "Mcdonalds": "McDonalds", "RedBull": "Red Bull", "Nbc": "NBC"}.get(brand, brand)
    tail = rng.choice(["(ORG)-a company", "(ORG)-a company", "(MISC)-a brand product", "(ORG)-an organization", "(MISC)-a logo"])
    return Phrase(f"{word} {tail}", {"logo:" + brand})


def never(rng, names):
    fine = rng.choice([f for f in NEVER if f in names.fine])
    coarse = names.fine[fine][0]
    tail = expansion(fine) if rng.random() < 0.85 else GENERIC[coarse]
    return Phrase(f"{names.of(rng, fine)} ({coarse})-{tail}", set())


def team(rng, names):
    fine = rng.choice(["sports_team", "sports_team", "band"])
    return Phrase(f"{names.of(rng, fine)} (ORG)-{expansion(fine)}", {"person"}, 0.4, 0.3)


def step(rng, names, coco, labels, logos):
    """The expressions of one training step. `coco`: COCO's classes to name; `labels`, `logos`: classes of this
    batch's photos beyond COCO's."""
    out = [named(rng, names, c) for c in coco if c != "person"]
    out += [person(rng, names) for _ in range(7)]
    out += [group(rng, names, g) for g in ("animal", "animal", "vehicle", "food", "product", "furniture")]
    out += [named(rng, names, c) for c in ("building", "building", "door", "window")]
    out += [named(rng, names, rng.choice(["hat", "glasses", "dress", "pants", "skirt", "coat", "shoes", "hair", "shirt", "shorts"])) for _ in range(3)]
    out += [logo(rng, b) for b in logos]
    out += [named(rng, names, c) for c in labels]
    out += [never(rng, names) for _ in range(8)]
    out += [team(rng, names) for _ in range(2)]
    return out
