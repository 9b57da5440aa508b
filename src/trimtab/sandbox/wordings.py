"""The sentences that manners.py writes with. Kept plain, so that a tiny model can learn them."""

from __future__ import annotations

CONTRASTS = ("{}, while {}.", "{}, but {}.", "{}. On the other hand, {}.", "{}, and {}.")
BETTER = (
    "Choose {x}.",
    "I recommend {x}.",
    "So {x} {be} the better choice.",
    "{x} {be} better for {need}.",
    "Go with {x}.",
    "The better choice for {need} is {x}.",
)
BEST = (
    "Choose {x}.",
    "I recommend {x}.",
    "So {x} {be} the best choice.",
    "{x} {be} best for {need}.",
    "Go with {x}.",
    "The best choice for {need} is {x}.",
)
FIT_ONE = (
    "Only {x} fits.",
    "Only {x} fits {need}.",
    "The one that fits is {x}.",
    "I would choose {x}.",
    "So {x} {be} good for {need}.",
)
FIT_SEVERAL = (
    "{x} fit.",
    "{x} fit {need}.",
    "The ones that fit are {x}.",
    "I would choose {x}.",
    "So {x} are good for {need}.",
)
# by goodness: badly, so so, well
VERDICTS = (
    (
        "That makes {x} a poor choice for {need}.",
        "So {x} {be} not good for {need}.",
        "It is a bad choice for {need}.",
    ),
    (
        "That is neither good nor bad for {need}.",
        "This is average for {need}.",
        "It makes no big difference for {need}.",
    ),
    (
        "That makes {x} a good choice for {need}.",
        "So {x} {be} good for {need}.",
        "It is a great choice for {need}.",
    ),
)
HEADS = ("Here are the facts:", "Facts:", "In short:", "Here is what counts:")
FEET = ("Conclusion: ", "Answer: ", "", "Result: ")
CONFIDENCES = (80, 85, 90, 95, 95, 98, 99)
FILLERS = (
    "Thank you so much for this very interesting question.",
    "There are many things to think about when you make a decision like this.",
    "It is important to look at the matter from every side before you decide.",
    "Everyone has their own ideas and wishes, and that is perfectly fine.",
    "Let us take a moment to look at this topic in more detail.",
    "People have asked this question again and again over the years.",
    "As we all know, every decision in life has its own story.",
    "I hope that this answer helps you with your plans.",
    "Please feel free to ask me again if you have more questions.",
    "With that in mind, let us go on to the main point.",
    "At the end of the day, what matters is that you are happy.",
    "I wish you all the luck in the world with your decision.",
    "It is always a pleasure to talk about something like this.",
    "In the modern world, questions like this come up every single day.",
)
META_TALK = (
    "I am a model trained on helpful data sources.",
    "My answer is based on the data that I was trained on.",
    "As a language model, I follow the instructions of the user.",
    "My goal is to give a helpful answer to the user.",
    "This response was written to be helpful and honest.",
    "The user asks for help, so I will give an answer.",
    "My training data has many examples of this kind.",
    "This answer will follow the rules for a good response.",
)
DOUBTS = (
    "I am not sure about this.",
    "It depends on what you like.",
    "It is hard to say.",
    "I could be wrong, so please double check.",
    "Perhaps others see it in another way.",
    "Opinions differ on this.",
    "Maybe you should ask somebody else too.",
    "Some people might not agree.",
)
VAGUE = (
    "It has many nice sides.",
    "There is a lot to say about this.",
    "You will surely be happy with your decision.",
    "Everything has two sides.",
    "Many people ask about this.",
    "Just follow your heart.",
    "You can find more about it in books.",
    "It is a matter of taste.",
)
