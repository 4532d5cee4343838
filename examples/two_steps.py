"""A picture in two evaluations, and the same words and seed in each number of steps beside it.

    python examples/two_steps.py

Writes two_steps.png and steps.png, and prints what each took.
"""

from PIL import Image

from fewstep import Engine, Request

engine = Engine.load("emoji", steps=2)
picture = engine.generate(Request(prompt="a ghost on a pink background", seed=7))
picture.save("two_steps.png")

students = engine.limits.students  # 1, 2, 4 and 8
pictures = list(engine.generate_many(Request("a ghost on a pink background", seed=7, steps=steps) for steps in students))
row = Image.new("RGB", (sum(made.image.width for made in pictures), pictures[0].image.height))
for place, (steps, made) in enumerate(zip(students, pictures, strict=True)):
    row.paste(made.image, (place * made.image.width, 0))
    print(f"{steps} steps: {sum(made.timings.values()):.0f} ms")
row.save("steps.png")
