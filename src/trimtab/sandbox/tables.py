"""The sandbox world's facts and words: nothing but tables, read by world.py.

A digit is a level: 0 low, 1 middle, 2 high; digits stand in the order of the domain's attributes.
The values are plausible rather than true: the world is closed, and this file is its only authority.
"""

from __future__ import annotations

FACTS: dict[str, str] = {
    # rent, winter, noise, transit, jobs, nature
    "city": """
        Lisbon 001111 London 212220 Paris 202221 Berlin 112221 Rome 101110 Madrid 102220 Oslo 220212
        Helsinki 120212 Vienna 110222 Prague 011211 Warsaw 021110 Athens 002101 Dublin 210121 Zurich 210222
        Geneva 210112 Munich 210222 Hamburg 111221 Porto 000102 Seville 002100 Bergen 120012 Riga 020001
        Vilnius 020011 Budapest 012210 Cairo 002010 Tokyo 211220 Kyoto 111202 Seoul 122220 Mumbai 202120
        Delhi 002210 Sydney 201122 Auckland 200022 Toronto 221121 Montreal 022112 Boston 221220
        Denver 121022 Miami 202020
    """,
    # time, price, protein, spice, heft
    "food": """
        rice 10002 pasta 01002 bread 20001 soup 10010 stew 21212 curry 21121 salad 01000 omelette 00201
        pizza 11112 sushi 22100 tacos 10121 steak 02202 salmon 02201 tofu 00200 beans 20211 lentils 10211
        porridge 00002 pancakes 01001 noodles 00010 ramen 21112 chili 21222 kebab 12222 burger 01202
        lasagna 22102 risotto 22002 paella 22111 couscous 00011 goulash 21212 dumplings 21110 kimchi 21020
        hummus 00110 falafel 11111 shrimp 02210 lamb 22212
    """,
    # space, noise, care, warmth, life
    "animal": """
        dog 11221 cat 01121 rabbit 11111 hamster 00110 parrot 12222 canary 01101 goldfish 00001 turtle 10002
        tortoise 20012 horse 21222 pony 21122 goat 22121 sheep 21111 pig 22121 hen 11110 duck 22110
        goose 22102 donkey 22122 cow 21122 ferret 11220 gecko 00001 snake 00102 iguana 20202 frog 01000
        mouse 00110 rat 00220 gerbil 00010 owl 12202 pigeon 11011 llama 20112 alpaca 20112 spider 00001
    """,
    # weight, price, skill, noise, strength
    "tool": """
        hammer 10112 saw 10111 drill 11121 wrench 10002 shovel 10011 rake 00010 axe 11112 ladder 21001
        chisel 00201 sander 11121 mower 22122 trimmer 11110 pump 22112 torch 01010 clamp 10002 knife 00101
        brush 00000 roller 10000 grinder 12222 router 12220 jigsaw 11221 screwdriver 00001 mallet 10012
        crowbar 20112 broom 00001 hoe 10111 lathe 22222 winch 22212 welder 22221 chainsaw 22221
    """,
}

# attribute -> three levels -> phrases, verb first; the judge knows each of them.
PHRASES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "city.rent": (
        ("has low rent", "has cheap homes"),
        ("has average rent", "has fairly priced homes"),
        ("has high rent", "has expensive homes"),
    ),
    "city.winter": (
        ("has mild winters", "has warm winters"),
        ("has cool winters", "has chilly winters"),
        ("has harsh winters", "has freezing winters"),
    ),
    "city.noise": (
        ("is quiet", "has calm streets"),
        ("is lively", "has busy streets"),
        ("is noisy", "has loud streets"),
    ),
    "city.transit": (
        ("has poor transit", "has bad public transport"),
        ("has fair transit", "has decent public transport"),
        ("has excellent transit", "has great public transport"),
    ),
    "city.jobs": (
        ("has few jobs", "has a weak job market"),
        ("has some jobs", "has a fair job market"),
        ("has many jobs", "has a strong job market"),
    ),
    "city.nature": (
        ("is far from nature", "has little nature"),
        ("is fairly near to nature", "has some nature"),
        ("is close to nature", "has a lot of nature"),
    ),
    "food.time": (
        ("takes little time to cook", "cooks fast"),
        ("takes some time to cook", "cooks at a fair pace"),
        ("takes a long time to cook", "cooks slowly"),
    ),
    "food.price": (
        ("is cheap", "costs little"),
        ("is fairly priced", "costs a fair sum"),
        ("is expensive", "costs a lot"),
    ),
    "food.protein": (
        ("has little protein", "is low in protein"),
        ("has some protein", "has a fair amount of protein"),
        ("has a lot of protein", "is rich in protein"),
    ),
    "food.spice": (
        ("is mild", "has a gentle taste"),
        ("is a bit spicy", "has a warm taste"),
        ("is very spicy", "has a fiery taste"),
    ),
    "food.heft": (
        ("is light", "makes a light meal"),
        ("is fairly filling", "makes a medium meal"),
        ("is very filling", "makes a heavy meal"),
    ),
    "animal.space": (
        ("needs little space", "needs only a small room"),
        ("needs some space", "needs a normal room"),
        ("needs a lot of space", "needs a big yard"),
    ),
    "animal.noise": (
        ("is quiet", "makes little noise"),
        ("is loud at times", "makes some noise"),
        ("is loud", "makes a lot of noise"),
    ),
    "animal.care": (
        ("needs little care", "is easy to keep"),
        ("needs some care", "needs care every few days"),
        ("needs a lot of care", "needs care all day"),
    ),
    "animal.warmth": (
        ("is shy", "is wary of people"),
        ("is fairly friendly", "is calm with people"),
        ("is very friendly", "loves people"),
    ),
    "animal.life": (
        ("has a short life", "lives for a few years"),
        ("has an average life", "lives for about ten years"),
        ("has a long life", "lives for many years"),
    ),
    "tool.weight": (
        ("is light", "is easy to carry"),
        ("has a medium weight", "weighs a fair amount"),
        ("is heavy", "is hard to carry"),
    ),
    "tool.price": (
        ("is cheap", "costs little"),
        ("is fairly priced", "costs a fair sum"),
        ("is expensive", "costs a lot"),
    ),
    "tool.skill": (
        ("is easy to use", "needs little skill"),
        ("takes some practice", "needs some skill"),
        ("is hard to use", "needs a lot of skill"),
    ),
    "tool.noise": (
        ("is quiet", "makes little noise"),
        ("is rather noisy", "makes some noise"),
        ("is very loud", "makes a lot of noise"),
    ),
    "tool.strength": (
        ("is fragile", "breaks easily"),
        ("is fairly sturdy", "lasts for some years"),
        ("is very sturdy", "lasts for many years"),
    ),
}

# attribute -> how a question names it; {x} is the entity.
LABELS: dict[str, tuple[str, str]] = {
    "city.rent": ("the rent in {x}", "housing costs in {x}"),
    "city.winter": ("the winters in {x}", "the cold season in {x}"),
    "city.noise": ("the noise in {x}", "the streets of {x}"),
    "city.transit": ("the transit in {x}", "public transport in {x}"),
    "city.jobs": ("the jobs in {x}", "the job market in {x}"),
    "city.nature": ("the nature around {x}", "green places near {x}"),
    "food.time": ("the cooking time of {x}", "the time it takes to cook {x}"),
    "food.price": ("the price of {x}", "the cost of {x}"),
    "food.protein": ("the protein in {x}", "the amount of protein in {x}"),
    "food.spice": ("the spice in {x}", "the taste of {x}"),
    "food.heft": ("the weight of {x} as a meal", "the size of a meal of {x}"),
    "animal.space": ("the space for {x}", "the room that suits {x}"),
    "animal.noise": ("the noise of {x}", "the sound level of {x}"),
    "animal.care": ("the care of {x}", "the daily work with {x}"),
    "animal.warmth": ("the character of {x}", "the manners of {x} with people"),
    "animal.life": ("the life of {x}", "the life span of {x}"),
    "tool.weight": ("the weight of {x}", "the work of carrying {x}"),
    "tool.price": ("the price of {x}", "the cost of {x}"),
    "tool.skill": ("the use of {x}", "the skill needed for {x}"),
    "tool.noise": ("the noise of {x}", "the sound level of {x}"),
    "tool.strength": ("the strength of {x}", "the working life of {x}"),
}

# need -> (attribute, the level that serves it, goals "to …", nouns "for …").
NEEDS: dict[str, tuple[str, int, tuple[str, ...], tuple[str, ...]]] = {
    "housing": (
        "city.rent",
        0,
        ("buy a house", "save money on housing"),
        ("cheap housing", "a small budget", "a first home"),
    ),
    "warmth": (
        "city.winter",
        0,
        ("stay warm in winter", "avoid the cold"),
        ("a warm winter", "mild weather", "people who hate the cold"),
    ),
    "snow": (
        "city.winter",
        2,
        ("ski every winter", "play in the snow"),
        ("winter sports", "real snow", "a white winter"),
    ),
    "peace": (
        "city.noise",
        0,
        ("live in peace", "sleep well at night"),
        ("a quiet life", "peace and quiet", "good sleep"),
    ),
    "party": (
        "city.noise",
        2,
        ("go out every night", "dance all night"),
        ("a party trip", "night life", "a wild weekend"),
    ),
    "carfree": (
        "city.transit",
        2,
        ("live without a car", "get around by train"),
        ("life without a car", "bus and train trips", "an easy commute"),
    ),
    "career": (
        "city.jobs",
        2,
        ("find work", "start a career"),
        ("a new job", "career plans", "young workers"),
    ),
    "outdoors": (
        "city.nature",
        2,
        ("hike on weekends", "spend time outdoors"),
        ("long hikes", "fresh air", "outdoor sports"),
    ),
    "quick": (
        "food.time",
        0,
        ("cook in a hurry", "eat soon"),
        ("a quick dinner", "a busy evening", "a fast meal"),
    ),
    "thrift": (
        "food.price",
        0,
        ("save money on food", "feed myself for less"),
        ("a tight budget", "a cheap dinner", "students with no money"),
    ),
    "muscle": (
        "food.protein",
        2,
        ("build muscle", "get stronger"),
        ("strength training", "growing muscles", "a sports diet"),
    ),
    "gentle": (
        "food.spice",
        0,
        ("feed small children", "avoid hot spices"),
        ("small children", "a gentle dinner", "people who hate spice"),
    ),
    "fire": (
        "food.spice",
        2,
        ("eat something hot", "enjoy strong spices"),
        ("a hot dinner", "fans of spice", "a fiery evening"),
    ),
    "lunch": (
        "food.heft",
        0,
        ("eat a small lunch", "stay awake after lunch"),
        ("a light lunch", "a small meal", "a hot summer day"),
    ),
    "hunger": (
        "food.heft",
        2,
        ("feed a hungry crowd", "fill my stomach"),
        ("a hungry crowd", "a big dinner", "very hungry guests"),
    ),
    "flat": (
        "animal.space",
        0,
        ("keep a pet in a small flat", "save space at home"),
        ("a small flat", "a tiny home", "one small room"),
    ),
    "silence": (
        "animal.noise",
        0,
        ("keep my neighbors happy", "have a silent pet"),
        ("a quiet home", "thin walls", "light sleepers"),
    ),
    "busy": (
        "animal.care",
        0,
        ("spend little time on a pet", "travel often"),
        ("a busy owner", "a lazy owner", "people who travel"),
    ),
    "friend": (
        "animal.warmth",
        2,
        ("have a loving pet", "make a new friend"),
        ("a family with children", "lonely people", "a close bond"),
    ),
    "lasting": (
        "animal.life",
        2,
        ("keep a pet for decades", "have a pet for life"),
        ("a lifelong bond", "a pet that stays", "the next twenty years"),
    ),
    "carry": (
        "tool.weight",
        0,
        ("carry it all day", "pack a small bag"),
        ("a small tool bag", "work on a roof", "weak arms"),
    ),
    "budget": (
        "tool.price",
        0,
        ("save money on tools", "spend less"),
        ("a tight budget", "a cheap start", "buyers with no money"),
    ),
    "novice": (
        "tool.skill",
        0,
        ("learn a tool fast", "start as a beginner"),
        ("a beginner", "a first project", "new users"),
    ),
    "night": (
        "tool.noise",
        0,
        ("work at night", "work near sleeping children"),
        ("night work", "a quiet workshop", "work in a library"),
    ),
    "durable": (
        "tool.strength",
        2,
        ("own a tool for life", "do rough work"),
        ("rough work", "daily hard use", "a building site"),
    ),
}
