"""A language model of Python's manual, letter by letter: fit, score, sample, go on with a prompt, decode in eight bits.

The text is what `help("topics")` shows, which comes with Python, or any file (--text). A Transformer gives the exact
probability of every character given those before it in a window of 64, so its score is a code length, and what is drawn
from it is drawn from the density that is scored. `generate` is the language model's way to draw instead: on from a
prompt, beyond the window, and only what is likely enough.

    python examples/gpt.py
    python examples/gpt.py --gpt2 FOLDER   # and go on with a GPT-2 checkpoint: model.safetensors, tokenizer.json
"""

import argparse
import time
from pathlib import Path
from pydoc_data.topics import topics

from chainrule import Transformer

HELD_OUT = 20_000  # characters


def characters_per_second(model, n=500):
    """Speed of `generate`, one character after the other."""
    began = time.perf_counter()
    model.generate("", n, sliding=True, random_state=0)
    return n / (time.perf_counter() - began)


def indented(text):
    """For the eye."""
    return "\n".join("  | " + line for line in text.splitlines())


def go_on(folder, prompt):
    """With weights that somebody else has trained."""
    from tokenizers import Tokenizer

    gpt2 = Transformer.from_gpt2(folder, tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")))
    print(f"\n{folder}, in eight bits")
    print(prompt, end="")
    for (piece,) in gpt2.pack("int8").generate_stream([prompt], 30, top_p=0.9, random_state=0):
        print(piece, end="", flush=True)
    print()


def main(arguments=None):
    """Every figure that is printed is measured here."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--text", type=Path, help="a file of text in UTF-8, in the place of the manual")
    parser.add_argument("--max-seconds", type=float, default=50, help="budget of the fit (%(default)s)")
    parser.add_argument("--gpt2", type=Path, metavar="FOLDER", help="a checkpoint to go on with")
    parser.add_argument("--prompt", default="The statement ", help="what is gone on with (%(default)r)")
    options = parser.parse_args(arguments)

    text = options.text.read_text(encoding="utf-8") if options.text else "\n".join(topics.values())
    text, held_out = text[:-HELD_OUT], text[-HELD_OUT:]

    # 1. Fit. AdamW with a warm-up, as for any language model; the defaults are a small one.
    def show(epoch):
        print(f"epoch {epoch['epoch']}: {epoch['validation']:.3f} nats a character on held-out text")
        print(indented(model.generate("", 120, sliding=True, random_state=0)[0]))

    model = Transformer(
        n_layers=4, n_heads=4, width=128, context_length=64, learning_rate=2e-3, warmup=100,
        optimizer_options={"beta2": 0.99}, max_epochs=3, schedule="cosine", max_seconds=options.max_seconds,
        random_state=0,
    )  # fmt: skip
    model.fit(text, X_val=held_out, callbacks=[show])

    # 2. Score: the chain rule's terms, exact, in nats. A cost in bits is that of an ideal coder.
    print(f"\n{model.bits_per_step(held_out):.3f} bits a character")
    for line in ("return the value of the expression", "return the expression of value the", "nruter eht eulav"):
        print(f"  {model.score_samples(line)[0] / len(line):6.2f} nats a character: {line}")

    # 3. Sample: windows of the density itself; row k depends on the seed and on k alone.
    print("\nsamples of the density")
    for window in model.sample(2, model.context_length, random_state=7):
        print(indented(window))

    # 4. Generate: on from a prompt, the smallest set of likely characters whose probability reaches 0.9.
    print("\ngenerated, top-p 0.9")
    print(indented(options.prompt + model.generate(options.prompt, 200, top_p=0.9, sliding=True, random_state=1)[0]))

    # 5. Weights in eight bits: a quarter of the bytes, and the scores of the rounded weights.
    small = model.pack("int8")
    print(f"\nfloat32  {model.bits_per_step(held_out):.4f} bits, {characters_per_second(model):6.0f} characters/s")
    print(f"int8     {small.bits_per_step(held_out):.4f} bits, {characters_per_second(small):6.0f} characters/s")

    # 6. Other people's weights.
    if options.gpt2:
        go_on(options.gpt2, options.prompt)


if __name__ == "__main__":
    main()
