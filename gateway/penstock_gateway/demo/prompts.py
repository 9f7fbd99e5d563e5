"""The prompts of the demonstration: forty of our own, of mixed subject and difficulty.

Owns texts only. They were written for this file before any router existed, come from no data set, carry no answers and
no labels, and were not used in fitting or in choosing a threshold. Read `DEMO_PROMPTS`.
"""

from __future__ import annotations

DEMO_PROMPTS: tuple[str, ...] = (
    # conversation and everyday writing
    "Hi! I'm Ola. How are you doing this morning?",
    "Suggest three names for a small bakery that opens before sunrise.",
    "Rewrite this so that it sounds friendlier: 'Your invoice is late. Pay by Friday or we stop deliveries.'",
    "Fix the spelling and punctuation: 'their going too bring there dog with them to the meating on wensday'",
    "Write a short thank-you note to a neighbour who watered my tomatoes for two weeks in July.",
    "Summarise in one sentence: The council met on Tuesday to discuss the harbour bridge. After two hours of "
    "questions about noise, cost and the school route, members agreed to delay the vote until the traffic study is "
    "published in May.",
    # translation
    "Translate into French: 'The train to Lyon leaves from platform nine at a quarter past six.'",
    "Translate this Spanish proverb into natural English and explain when one would say it: 'Camarón que se duerme, "
    "se lo lleva la corriente.'",
    # arithmetic in words
    "A crate holds 24 jars. A shop sells 7 crates and 5 single jars on Monday, and half as many jars on Tuesday, "
    "rounded down. How many jars does it sell on the two days together?",
    "Mira cycles 18 km to work at 24 km/h and returns by the same road at 18 km/h. What is her average speed for the "
    "round trip?",
    "A recipe for 6 people needs 450 g of lentils. How many grams do 10 people need?",
    "A tank is filled by one pipe in 4 hours and by another in 6 hours, while a leak would empty the full tank in 12 "
    "hours. With both pipes open and the leak unrepaired, how long does it take to fill the empty tank?",
    # algebra, calculus, proof
    "Solve for x: 3(x - 4) = 2x + 5.",
    "Find all real x with x^4 - 5x^2 + 4 = 0 and say how you know that there are no others.",
    "Let f be continuous on [0, 1] with f(0) = f(1). Prove that there is a c in [0, 1/2] with f(c) = f(c + 1/2).",
    "Evaluate the integral of x^2 * exp(-x) from 0 to infinity and show each step.",
    "How many ways are there to tile a 2 by 10 board with 1 by 2 dominoes? Derive the recurrence.",
    # programming
    "Write a Python function that returns the second largest distinct number in a list, or None when there is none.",
    "Explain the difference between a list and a tuple in Python to a beginner.",
    "This loop never ends. Why?\n\n```python\ni = 10\nwhile i != 0:\n    print(i)\n    i -= 3\n```",
    "Our asyncio service leaks memory: tasks made with asyncio.create_task in a request handler hold references to "
    "request bodies after time-outs. Describe how you would find the leak and how you would restructure the handler "
    "so that no task outlives its request.",
    "Implement a thread-safe LRU cache with per-entry expiry in Rust, without any crate outside the standard "
    "library, and discuss its lock contention.",
    "Convert this to a list comprehension: result = []; for n in numbers: if n % 2 == 0: result.append(n * n)",
    # SQL
    "Table orders(id, customer_id, placed_on, total). Write a SQL query for the five customers with the highest sum "
    "of totals in 2025.",
    "Table readings(sensor, at, value) has gaps. Write PostgreSQL that returns, for each sensor, the longest run of "
    "consecutive minutes without a reading, using window functions.",
    # science
    "Why does ice float on water?",
    "A 2 kg block slides down a 30 degree incline with a coefficient of kinetic friction of 0.2. What is its "
    "acceleration?",
    "Which of these is a noble gas? A) nitrogen B) argon C) chlorine D) hydrogen",
    "Explain why the entropy of mixing of two ideal gases vanishes when the gases are identical, and how quantum "
    "statistics resolves the apparent paradox.",
    # medicine
    "What is the difference between a virus and a bacterium?",
    "A 67-year-old man on lisinopril and spironolactone has muscle weakness, and his ECG shows tall, peaked T waves. "
    "What is the most likely electrolyte disturbance, and what should be given first?",
    # law and finance
    "In contract law, what is the difference between an offer and an invitation to treat? Give an example of each.",
    "A supplier in State A ships defective valves to a buyer in State B under a contract with a merger clause and an "
    "'as is' disclaimer in small print. Which warranties under UCC Article 2 survive, and what must the buyer show?",
    "I put 2,000 euros into an account at 3 percent a year, compounded monthly. What is it worth after five years?",
    # history and general knowledge
    "What is the capital of New Zealand?",
    "Compare the causes of the collapse of the Western Roman Empire given by two different schools of historians, "
    "and say which evidence each side finds hardest to explain.",
    # reasoning
    "Three boxes are labelled 'apples', 'pears' and 'both'. Every label is wrong. You may take one fruit from one "
    "box. Which box do you choose, and how do you then relabel all three?",
    "If all florps are grints and no grint is a vask, can a vask be a florp?",
    "Five colleagues sit in a row. Ada is not at an end. Ben sits directly left of Cleo. Dev is somewhere left of "
    "Ada. Eli is at the left end and two seats from Ada. Who sits in the middle? List every arrangement that fits.",
    "A judge, a baker and a pilot each own one of three cars: red, green, blue. The baker does not own the red car. "
    "The pilot's car is neither red nor green. Who owns which?",
)
"""Forty prompts, in the order in which the demonstration sends them."""
