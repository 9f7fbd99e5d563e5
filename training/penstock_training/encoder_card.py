"""The card of an exported encoder and the texts it is checked with.

Cards are for people and stay outside the fingerprint. Read `card`.
"""

from __future__ import annotations

from penstock_routers.encoder_manifest import EncoderManifest

# Written for this project: kinds of text that tokenise differently. Used for the parity check of an export only.
PROBE_TEXTS: tuple[str, ...] = (
    "What is the boiling point of water at an altitude of 2,000 metres?",
    "def merge(left, right):\n    return sorted(left + right)\n\nWhy is this slower than a linear merge?",
    "Summarise the following letter in two sentences and keep its tone.",
    "Prove that the square root of 3 is irrational.",
    "Wie viele Einwohner hat die größte Stadt am Bodensee?",
    "Translate 'the early bird catches the worm' into Latin.",
    "SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 3;",
    "A train leaves at 14:05 and arrives at 17:52. How long does the journey take?",
    "hi",
    "Explain to a child why the sky is blue, then give the physics with the formula for Rayleigh scattering.",
    '{"city": "Lyon", "days": 3, "budget_eur": 450} Plan the trip and answer in the same JSON shape.',
    "Which of the following is a mammal? A. trout B. bat C. eagle D. gecko. Answer with the letter only.",
)


def card(manifest: EncoderManifest, mean_cosine: float, min_cosine: float) -> str:
    """Write the card of one encoder.

    Parameters
    ----------
    manifest : EncoderManifest
    mean_cosine, min_cosine : float
        To the unquantised original over `PROBE_TEXTS`.

    Returns
    -------
    str
        Markdown.
    """
    limit = "the window alone" if manifest.max_tokens is None else f"{manifest.max_tokens} tokens"
    what = {
        "static": "One vector per vocabulary token, from running the source model on every token alone; centred, "
        "reduced by principal components and weighted by smooth inverse frequency. A text is the normalised sum of "
        "its tokens' vectors: word order does not matter to it.",
        "transformer": "The whole source model with its pooling.",
    }[manifest.kind]
    purpose = {
        "static": "Routing on a CPU. It is not made for paraphrase: two texts of the same words in another order are "
        "the same to it.",
        "transformer": "Paraphrase (the semantic cache), and routing where a GPU is at hand.",
    }[manifest.kind]
    tools = ", ".join(f"{name} {number}" for name, number in sorted(manifest.tools.items()))
    return f"""# {manifest.name}

{what}

| | |
| --- | --- |
| id | `{manifest.encoder_id}` |
| made for | {purpose} |
| vectors | {manifest.dimension} numbers, float32, length 1; zeros for a text without a token |
| stored as | {manifest.precision} |
| pooling | {manifest.pooling} |
| reads | the first {manifest.window.head_characters:,} and the last {manifest.window.tail_characters:,} characters |
| limit | {limit} |
| source | {manifest.source.name}, {manifest.source.licence} |
| source weights | SHA-256 `{manifest.source.weights_sha256}` |
| cosine to the unquantised original | mean {mean_cosine:.4f}, smallest {min_cosine:.4f}, over 12 short texts |
| exported with | {tools} |

English is what the source model was trained on; other languages are split into short pieces and mean less. Vectors are
content: a short prompt can be guessed back from one, so store them as you would store the prompt.
"""
