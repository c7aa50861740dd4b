"""The NOTICE with the credits of the emoji corpus and of pretrained weights."""

from __future__ import annotations

CORPUS_CREDITS = (
    "Noto Emoji, current and first version: copyright Google Inc, Apache License 2.0",
    "Twemoji: copyright Twitter, Inc and other contributors, CC BY 4.0",
    "Fluent Emoji, gradient and flat: copyright Microsoft Corporation, MIT License",
    "Emojitwo (Emoji One 2.2): the Emojitwo project, CC BY 4.0",
    "Firefox OS Emoji (FxEmojis): copyright Mozilla Foundation, art CC BY 4.0",
    "Streamline Emojis: copyright Streamline, CC BY 4.0",
    "emojibase-data: copyright Miles Johnson, MIT License; its English text is from Unicode CLDR, "
    "copyright Unicode, Inc, Unicode License",
)
WEIGHT_CREDITS = (
    "all-MiniLM-L6-v2 (text encoder's first weights and vocabulary): Sentence-Transformers, on Microsoft's "
    "MiniLM, Apache License 2.0",
    "EfficientNet-Lite0 and -Lite2 (features that losses and scores are measured on): Google, "
    "in the PyTorch port by ML Illustrated, Apache License 2.0",
)


def notice_text() -> str:
    """The NOTICE that a checkpoint carries."""
    art = "\n".join(f"- {credit}" for credit in CORPUS_CREDITS)
    weights = "\n".join(f"- {credit}" for credit in WEIGHT_CREDITS)
    return (
        "Textual Vision\nLicensed under the Apache License 2.0.\n\n"
        "Models named `emoji` were trained on pictures rendered, resized and combined from the works below,\n"
        "and contain image codes of them.\n\n"
        f"{art}\n\nWeights of other projects:\n\n{weights}\n\n"
        "License texts: https://www.apache.org/licenses/LICENSE-2.0, "
        "https://creativecommons.org/licenses/by/4.0/, https://opensource.org/license/mit, "
        "https://www.unicode.org/license.txt\n"
    )
