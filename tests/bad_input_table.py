"""Run every test of bad input and print how many cases were tried, and how many gave a clear error, by area.

    python tests/bad_input_table.py
"""
from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
FILES = ("test_bad_data.py", "test_bad_input.py", "test_sweeps.py", "test_experiments.py", "test_models.py")
AREAS = {  # test functions, by what they try; the first that matches counts
    "data": r"test_bad_data.*(bad|impossible|damaged|refused|named|says|opened)",
    "experiments": r"test_(missing_field|impossible_experiments|impossible_attacks|unknown_names|a_broken_yaml|"
                   r"a_figure_must|a_missing_field|a_field_of|a_value_out|an_unknown_field|a_file_that_is_no_exp|a_profile)",
    "sweeps": r"test_(impossible_sweeps|an_unknown_sweep|impossible_batches)",
    "notebook parameters": r"test_a_bad_parameter",
    "models and weights": r"test_(a_file_that_is_no_model|a_model_that_does_not|an_npz_of|impossible_models|a_std|"
                          r"files_that_are_no|code_inside)",
    "attacks": r"test_a_bad_attack",
    "commands": r"test_(a_bad_command|a_folder_of_runs|the_command_line)",
    "code inside files": r"test_(arrays_that|yaml_that|an_empty_file)",
}


class Count:
    """A pytest plugin that counts the cases of each area."""

    def __init__(self):
        self.tried, self.clear = Counter(), Counter()

    def pytest_runtest_logreport(self, report) -> None:
        area = next((area for area, pattern in AREAS.items() if re.search(pattern, report.nodeid)), None)
        if report.when == "call" and area:
            self.tried[area] += 1
            self.clear[area] += report.passed


def main() -> int:
    count = Count()
    status = pytest.main(["-q", "--no-header", "--durations=0", "--durations-min=1e9",
                          *(str(TESTS / file) for file in FILES)], plugins=[count])
    print(f"\n| bad input | cases tried | with a clear error |\n|{' --- |' * 3}")
    for area in AREAS:
        print(f"| {area} | {count.tried[area]} | {count.clear[area]} |")
    print(f"| all | {count.tried.total()} | {count.clear.total()} |")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
