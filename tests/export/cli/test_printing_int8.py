"""The lines that a build prints about int8."""

from __future__ import annotations

from textual_vision.export.cli.printing import MAX_UNVISITED, int8_lines

ROW = {
    "label": "latent: 3 int8",
    "code_agreement": 0.98,
    "text_code_agreement": 1.0,
    "psnr": 33.04,
    "generator_psnr": None,
    "megabytes": 12.5,
    "milliseconds": None,
}
NEVER = ",".join(str(row) for row in range(0, 200, 2))
NOTES = {
    "tolerance": "psnr>=32",
    "table": [ROW],
    "warnings": ["no layer is quantized"],
    "stages": {
        "text_encoder": {"products": {"int8": 0, "all": 0, "reasons": {}}},
        "generator": {
            "products": {"int8": 7, "all": 10, "reasons": {"accuracy": 2, "between activations": 1}}
        },
    },
    "calibration": {
        "prompts": 4,
        "offered": 9,
        "ranges": "auto",
        "tables": [
            {"tensor": "text_codes", "rows": 200, "visited": 100, "never": NEVER},
            {"tensor": "codes", "rows": 16, "visited": 16, "never": ""},
        ],
        "warnings": ["only 4 different prompts"],
    },
}


def test_prompts_rows_and_warnings_come_before_the_choices() -> None:
    lines = int8_lines(NOTES)
    assert lines[0] == "calibrated on 4 of 9 prompts, ranges by auto"
    assert lines[2:6] == [
        "  codes: 16 of 16 rows visited",
        "  warning: only 4 different prompts",
        "  warning: no layer is quantized",
        "int8 within psnr>=32: candidates that no other beats",
    ]
    assert lines[7].split() == ["98.00", "100.00", "33.0", "=", "12.50", "latent:", "3", "int8"]


def test_each_stage_has_the_count_of_its_int8_products_and_the_reasons_of_the_others() -> None:
    assert int8_lines(NOTES)[-3:] == [
        "products that compute in int8",
        "  text_encoder: no products",
        "  generator: 7 of 10; 2 not: accuracy, 1 not: between activations",
    ]


def test_a_long_list_of_rows_is_cut_between_two_rows() -> None:
    words = int8_lines(NOTES)[1]
    assert words.startswith("  text_codes: 100 of 200 rows visited, never 0,2,4,")
    shown = words.rpartition(" ")[2]
    assert shown.endswith(",…") and NEVER.startswith(shown[:-1]) and len(shown) <= MAX_UNVISITED + 1
